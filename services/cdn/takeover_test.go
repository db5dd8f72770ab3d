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

// An owner that hears of another stops reading, and goes on as its replica.
func TestOwnerStandsDown(t *testing.T) {
	h := newHall(t)
	a, b := h.join(t, "a", cdn.Config{}), h.join(t, "b", cdn.Config{})
	content := noise(10 << 18)
	hangs := newGate(t, content, 5<<18)
	o := serveOrigin(t, once(named(hangs), file(content, `"v1"`)))
	id := idOf("stand down")
	h.write(id, o, 7, "a", "b")
	stream := a.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7, Stay: true})
	b.awaitPieces(t, id, 1)
	follow := a.follow(t, id, false)
	event, err := follow.Recv()
	require.NoError(t, err)

	h.write(id, o, 8, "b", "a")
	_, err = hear(stream)
	requireReason(t, err, rpcerr.StaleEpoch)
	got, err := hear(b.seeding(t, &cdnv1.SeedRequest{
		TaskId: id, Source: o.source(), Epoch: 8, Expected: event.GetFacts(), Copies: []string{"a"},
	}))
	require.NoError(t, err)
	b.check(t, id, got, content)
	a.awaitWhole(t, id, content)
	sameFiles(t, id, b, a)
	require.Len(t, o.seen(), 2)
	require.Less(t, a.counter(t, "supernode_cdn_fetched_bytes_total"), float64(6<<18))
	require.Equal(t, "bytes=1048571-2621439", o.seen()[1].Header.Get("Range"))
	for { // who followed the old owner's copy has seen it become whole
		event, err = follow.Recv()
		require.NoError(t, err)
		if event.GetResult() != nil {
			break
		}
	}
	_, err = hear(a.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7}))
	requireReason(t, err, rpcerr.StaleEpoch)
	_, err = hear(a.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8}))
	requireReason(t, err, rpcerr.StaleEpoch)
}

// A Seed in a newer epoch comes before the record's news: the replica is the
// owner at once, and the news of the older epoch changes nothing.
func TestSeedPromotesByItself(t *testing.T) {
	h := newHall(t)
	a, b := h.join(t, "a", cdn.Config{}), h.join(t, "b", cdn.Config{})
	content := noise(10 << 18)
	o := serveOrigin(t, once(named(newGate(t, content, 5<<18)), file(content, `"v1"`)))
	id := idOf("promoted")
	h.write(id, o, 7, "a", "b")
	old := a.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7})
	b.awaitPieces(t, id, 1)
	s, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
	require.NoError(t, err)
	h.mute(true)
	got, err := hear(b.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8, Expected: s.GetFacts()}))
	require.NoError(t, err)
	b.check(t, id, got, content)
	h.write(id, o, 7, "a", "b")
	h.mute(false)
	_, err = hear(b.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8}))
	require.NoError(t, err)
	h.write(id, o, 8, "b", "a")
	_, err = hear(old)
	requireReason(t, err, rpcerr.StaleEpoch)
	a.awaitWhole(t, id, content)
	require.Len(t, o.seen(), 2)
}

// After a pause the owner asks whether it still is, and if not reads no more.
func TestOwnerAsksAfterAPause(t *testing.T) {
	const pause = 50 * time.Millisecond
	const sent = 5 << 20       // before the pause
	content := noise(30 << 20) // more than the sockets hold
	for name, taken := range map[string]bool{"still ours": false, "taken": true} {
		t.Run(name, func(t *testing.T) {
			h := newHall(t)
			h.mute(true) // only who asks learns of it
			a := h.join(t, "a", cdn.Config{PauseLimit: pause})
			g := newGate(t, content, sent)
			o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) { named(g)(w, r) })
			id := idOf("paused")
			h.write(id, o, 7, "a")
			stream := a.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7})
			a.awaitPieces(t, id, 1)
			eventually(t, func() bool { return a.counter(t, "supernode_cdn_fetched_bytes_total") == sent })
			if taken {
				h.write(id, o, 8, "b", "a")
			}
			stalled := time.NewTimer(10 * pause) // the pause is what is tested
			<-stalled.C
			g.open()
			got, err := hear(stream)
			if !taken {
				require.NoError(t, err)
				a.check(t, id, got, content)
				return
			}
			requireReason(t, err, rpcerr.StaleEpoch)
			require.Less(t, a.counter(t, "supernode_cdn_fetched_bytes_total"), float64(20<<20))
			s, err := a.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
			require.NoError(t, err)
			require.Positive(t, s.GetPieceCount(), "what is here is kept")
		})
	}
}

// A record that makes the replica the owner ends its copying and nothing else.
func TestAssignedOwnerWaitsForASeed(t *testing.T) {
	h := newHall(t)
	a, b := h.join(t, "a", cdn.Config{}), h.join(t, "b", cdn.Config{})
	content := noise(10 << 18)
	o := serveOrigin(t, once(named(newGate(t, content, 5<<18)), file(content, `"v1"`)))
	id := idOf("waits")
	h.write(id, o, 7, "a", "b")
	a.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7})
	b.awaitPieces(t, id, 1)
	follow := b.follow(t, id, true)
	h.write(id, o, 8, "b", "a")
	got, err := hear(follow)
	requireReason(t, err, rpcerr.CopyPartial)
	require.Len(t, got.pieces, 1)
	require.Len(t, o.seen(), 1)
	all, err := hear(b.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8, Expected: got.facts}))
	require.NoError(t, err)
	b.check(t, id, all, content)
}

// A store that was emptied, or a record that was put back as somebody
// remembered it, does not know that the task is whole.
func TestRecordThatDoesNotKnowTheEndIsToldAgain(t *testing.T) {
	h := newHall(t)
	a := h.join(t, "a", cdn.Config{})
	content := noise(1000)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("told again")
	ends := func() (n int) {
		for _, u := range h.of(id) {
			if u.GetStatus() == registryv1.TaskStatus_TASK_STATUS_SUCCESS && u.GetEpoch() == 7 {
				n++
			}
		}
		return n
	}
	h.write(id, o, 7, "a")
	_, err := hear(a.seeding(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7}))
	require.NoError(t, err)
	eventually(t, func() bool { return ends() >= 1 })
	before := ends()
	h.write(id, o, 7, "a")
	eventually(t, func() bool { return ends() > before })
}

// However often a task changes hands, nothing is fetched twice that somebody
// has, but what is under way, and all copies end up the same.
func TestManyChangesOfHands(t *testing.T) {
	h := newHall(t)
	names := []string{"a", "b", "c"}
	for _, name := range names {
		h.join(t, name, cdn.Config{})
	}
	for _, name := range names {
		eventually(t, func() bool { return h.nodes[name].knows("a") && h.nodes[name].knows("b") && h.nodes[name].knows("c") })
	}
	content := noise(40*full + 17)
	slow := func(w http.ResponseWriter, r *http.Request) { file(content, `"v1"`)(&slowly{ResponseWriter: w}, r) }
	o := serveOrigin(t, slow)
	id := idOf("hands")
	facts := &cdnv1.SourceFacts{Length: int64(len(content)), PieceSize: size, Etag: `"v1"`, LastModified: modified.Format(http.TimeFormat)}
	const changes = 9
	for epoch := int64(1); epoch <= changes; epoch++ {
		owner := names[epoch%3]
		others := []string{names[(epoch+1)%3], names[(epoch+2)%3]}
		stream := h.nodes[owner].seeding(t, &cdnv1.SeedRequest{
			TaskId: id, Source: o.source(), Epoch: epoch, Expected: facts, Copies: others,
		})
		h.write(id, o, epoch, owner, others...)
		if epoch == changes {
			got, err := hear(stream)
			require.NoError(t, err)
			h.nodes[owner].check(t, id, got, content)
			break
		}
		for pieces := 0; pieces < 3; { // a few steps ahead, then another is the owner
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
		h.nodes[name].awaitWhole(t, id, content)
		sameFiles(t, id, h.nodes[names[0]], h.nodes[name])
		fetched += h.nodes[name].counter(t, "supernode_cdn_fetched_bytes_total")
	}
	t.Logf("%.2f times the content was fetched in %d requests", fetched/float64(len(content)), len(o.seen()))
	require.Less(t, fetched, 3*float64(len(content)))
}

// slowly sends in small parts.
type slowly struct{ http.ResponseWriter }

func (s *slowly) Write(b []byte) (int, error) {
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
