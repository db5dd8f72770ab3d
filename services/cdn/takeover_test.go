package cdn_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

// An owner that receives a record of a newer epoch with another owner stops its fetch and
// continues as a replica.
func TestOwnerStepsDownInANewerEpoch(t *testing.T) {
	reg := newFakeRegistry(t)
	a, b := reg.join(t, "a", cdn.Config{}), reg.join(t, "b", cdn.Config{})
	content := randomContent(10 << 18)
	hangs := newGate(t, content, 5<<18)
	o := serveOrigin(t, firstThen(withValidators(hangs), file(content, `"v1"`)))
	id := idOf("stand down")
	reg.write(id, o, 7, "a", "b")
	stream := a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7, Stay: true})
	b.awaitPieces(t, id, 1)
	follow := a.follow(t, id, false)
	event, err := follow.Recv()
	require.NoError(t, err)

	reg.write(id, o, 8, "b", "a")
	_, err = receiveAll(stream)
	requireReason(t, err, rpcerr.StaleEpoch)
	got, err := receiveAll(b.startSeed(t, &cdnv1.SeedRequest{
		TaskId: id, Source: o.source(), Epoch: 8, Expected: event.GetFacts(), Copies: []string{"a"},
	}))
	require.NoError(t, err)
	b.check(t, id, got, content)
	a.awaitWhole(t, id, content)
	sameFiles(t, id, b, a)
	require.Len(t, o.seen(), 2)
	require.Less(t, a.counter(t, "supernode_cdn_fetched_bytes_total"), float64(6<<18))
	require.Equal(t, "bytes=1048571-2621439", o.seen()[1].Header.Get("Range"))
	for { // a Follow stream of the previous owner's copy continues until the copy is whole
		event, err = follow.Recv()
		require.NoError(t, err)
		if event.GetResult() != nil {
			break
		}
	}
	_, err = receiveAll(a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7}))
	requireReason(t, err, rpcerr.StaleEpoch)
	_, err = receiveAll(a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8}))
	requireReason(t, err, rpcerr.StaleEpoch)
}

// A Seed in a newer epoch may arrive before the record. The replica becomes the owner at
// once, and a record of the older epoch that arrives later is ignored.
func TestSeedPromotesBeforeTheRecordArrives(t *testing.T) {
	reg := newFakeRegistry(t)
	a, b := reg.join(t, "a", cdn.Config{}), reg.join(t, "b", cdn.Config{})
	content := randomContent(10 << 18)
	o := serveOrigin(t, firstThen(withValidators(newGate(t, content, 5<<18)), file(content, `"v1"`)))
	id := idOf("promoted")
	reg.write(id, o, 7, "a", "b")
	old := a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7})
	b.awaitPieces(t, id, 1)
	s, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
	require.NoError(t, err)
	reg.setSilent(true)
	got, err := receiveAll(b.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8, Expected: s.GetFacts()}))
	require.NoError(t, err)
	b.check(t, id, got, content)
	reg.write(id, o, 7, "a", "b")
	reg.setSilent(false)
	_, err = receiveAll(b.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8}))
	require.NoError(t, err)
	reg.write(id, o, 8, "b", "a")
	_, err = receiveAll(old)
	requireReason(t, err, rpcerr.StaleEpoch)
	a.awaitWhole(t, id, content)
	require.Len(t, o.seen(), 2)
}

// After a pause the owner checks whether it still owns the task. If it does not, it stops
// reading from the source.
func TestOwnerChecksItsOwnershipAfterAPause(t *testing.T) {
	const pause = 50 * time.Millisecond
	const sent = 5 << 20               // before the pause
	content := randomContent(30 << 20) // more than the socket buffers
	for name, taken := range map[string]bool{"still ours": false, "taken": true} {
		t.Run(name, func(t *testing.T) {
			reg := newFakeRegistry(t)
			reg.setSilent(true) // the record is not sent, only GetTask returns it
			a := reg.join(t, "a", cdn.Config{PauseLimit: pause})
			g := newGate(t, content, sent)
			o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) { withValidators(g)(w, r) })
			id := idOf("paused")
			reg.write(id, o, 7, "a")
			stream := a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7})
			a.awaitPieces(t, id, 1)
			eventually(t, func() bool { return a.counter(t, "supernode_cdn_fetched_bytes_total") == sent })
			if taken {
				reg.write(id, o, 8, "b", "a")
			}
			stalled := time.NewTimer(10 * pause) // the test needs a pause
			<-stalled.C
			g.open()
			got, err := receiveAll(stream)
			if !taken {
				require.NoError(t, err)
				a.check(t, id, got, content)
				return
			}
			requireReason(t, err, rpcerr.StaleEpoch)
			require.Less(t, a.counter(t, "supernode_cdn_fetched_bytes_total"), float64(20<<20))
			s, err := a.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
			require.NoError(t, err)
			require.Positive(t, s.GetPieceCount(), "the pieces are kept")
		})
	}
}

// A record that makes a replica the owner of the task does not start a fetch.
func TestAssignedOwnerWaitsForASeed(t *testing.T) {
	reg := newFakeRegistry(t)
	a, b := reg.join(t, "a", cdn.Config{}), reg.join(t, "b", cdn.Config{})
	content := randomContent(10 << 18)
	o := serveOrigin(t, firstThen(withValidators(newGate(t, content, 5<<18)), file(content, `"v1"`)))
	id := idOf("waits")
	reg.write(id, o, 7, "a", "b")
	a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7})
	b.awaitPieces(t, id, 1)
	follow := b.follow(t, id, true)
	reg.write(id, o, 8, "b", "a")
	got, err := receiveAll(follow)
	requireReason(t, err, rpcerr.CopyPartial)
	require.Len(t, got.pieces, 1)
	require.Len(t, o.seen(), 1)
	all, err := receiveAll(b.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8, Expected: got.facts}))
	require.NoError(t, err)
	b.check(t, id, all, content)
}

// After the store was emptied, or a record was restored, the record may not have the result
// of a whole task.
func TestRecordWithoutTheResultIsReportedAgain(t *testing.T) {
	reg := newFakeRegistry(t)
	a := reg.join(t, "a", cdn.Config{})
	content := randomContent(1000)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("told again")
	ends := func() (n int) {
		for _, u := range reg.of(id) {
			if u.GetStatus() == registryv1.TaskStatus_TASK_STATUS_SUCCESS && u.GetEpoch() == 7 {
				n++
			}
		}
		return n
	}
	reg.write(id, o, 7, "a")
	_, err := receiveAll(a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7}))
	require.NoError(t, err)
	eventually(t, func() bool { return ends() >= 1 })
	before := ends()
	reg.write(id, o, 7, "a")
	eventually(t, func() bool { return ends() > before })
}

// However often a task changes its owner, only content that was in flight is fetched again,
// and all copies become equal.
func TestManyChangesOfOwner(t *testing.T) {
	reg := newFakeRegistry(t)
	names := []string{"a", "b", "c"}
	for _, name := range names {
		reg.join(t, name, cdn.Config{})
	}
	for _, name := range names {
		eventually(t, func() bool {
			return reg.nodes[name].isMember("a") && reg.nodes[name].isMember("b") && reg.nodes[name].isMember("c")
		})
	}
	content := randomContent(40*full + 17)
	slow := func(w http.ResponseWriter, r *http.Request) { file(content, `"v1"`)(&slowWriter{ResponseWriter: w}, r) }
	o := serveOrigin(t, slow)
	id := idOf("hands")
	facts := &cdnv1.SourceFacts{Length: int64(len(content)), PieceSize: size, Etag: `"v1"`, LastModified: modified.Format(http.TimeFormat)}
	const changes = 9
	for epoch := int64(1); epoch <= changes; epoch++ {
		owner := names[epoch%3]
		others := []string{names[(epoch+1)%3], names[(epoch+2)%3]}
		stream := reg.nodes[owner].startSeed(t, &cdnv1.SeedRequest{
			TaskId: id, Source: o.source(), Epoch: epoch, Expected: facts, Copies: others,
		})
		reg.write(id, o, epoch, owner, others...)
		if epoch == changes {
			got, err := receiveAll(stream)
			require.NoError(t, err)
			reg.nodes[owner].check(t, id, got, content)
			break
		}
		for pieces := 0; pieces < 3; { // a few pieces, then another instance becomes the owner
			event, err := stream.Recv()
			require.NoError(t, err)
			if event.GetPiece() != nil {
				pieces++
			}
			if event.GetResult() != nil {
				break
			}
		}
	}
	var fetched float64
	for _, name := range names {
		reg.nodes[name].awaitWhole(t, id, content)
		sameFiles(t, id, reg.nodes[names[0]], reg.nodes[name])
		fetched += reg.nodes[name].counter(t, "supernode_cdn_fetched_bytes_total")
	}
	t.Logf("%.2f times the content was fetched in %d requests", fetched/float64(len(content)), len(o.seen()))
	require.Less(t, fetched, 3*float64(len(content)))
}

// slowWriter writes in parts of 16 KiB, with a pause of 1 ms after each.
type slowWriter struct{ http.ResponseWriter }

func (s *slowWriter) Write(b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := s.ResponseWriter.Write(b[n:min(len(b), n+16<<10)])
		if n += m; err != nil {
			return n, err
		}
		_ = http.NewResponseController(s.ResponseWriter).Flush() // best effort
		pace := time.NewTimer(time.Millisecond)
		<-pace.C
	}
	return n, nil
}
