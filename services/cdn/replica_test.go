package cdn_test

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

// startSeed starts a Seed with the given request.
func (n *node) startSeed(t testing.TB, req *cdnv1.SeedRequest) grpc.ServerStreamingClient[cdnv1.SeedResponse] {
	t.Helper()
	ctx, cancel := contextOf(t)
	t.Cleanup(cancel)
	stream, err := n.Seed(ctx, req)
	require.NoError(t, err)
	return stream
}

// seedView presents a Follow stream as a Seed stream.
type seedView struct {
	grpc.ServerStreamingClient[cdnv1.FollowResponse]
}

func (f seedView) Recv() (*cdnv1.SeedResponse, error) {
	event, err := f.ServerStreamingClient.Recv()
	if err != nil {
		return nil, err
	}
	switch e := event.GetEvent().(type) {
	case *cdnv1.FollowResponse_Facts:
		return &cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Facts{Facts: e.Facts}}, nil
	case *cdnv1.FollowResponse_Piece:
		return &cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Piece{Piece: e.Piece}}, nil
	case *cdnv1.FollowResponse_Result:
		return &cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Result{Result: e.Result}}, nil
	}
	return nil, errors.New("the event has no known type")
}

func (n *node) follow(t testing.TB, id string, stay bool) grpc.ServerStreamingClient[cdnv1.SeedResponse] {
	t.Helper()
	ctx, cancel := contextOf(t)
	t.Cleanup(cancel)
	stream, err := n.Follow(ctx, &cdnv1.FollowRequest{TaskId: id, Stay: stay})
	require.NoError(t, err)
	return seedView{stream}
}

// awaitPieces waits until the local copy has at least count pieces.
func (n *node) awaitPieces(t testing.TB, id string, count int) {
	t.Helper()
	eventually(t, func() bool {
		s, err := n.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
		return err == nil && int(s.GetPieceCount()) >= count
	})
}

// awaitWhole waits until the local copy is whole, and checks it.
func (n *node) awaitWhole(t testing.TB, id string, content []byte) {
	t.Helper()
	eventually(t, func() bool {
		s, err := n.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
		return err == nil && s.GetResult() != nil
	})
	got, err := receiveAll(n.follow(t, id, false))
	require.NoError(t, err)
	n.check(t, id, got, content)
}

// sameFiles requires that two instances have equal files of a task.
func sameFiles(t testing.TB, id string, a, b *node) {
	t.Helper()
	for _, suffix := range []string{"", ".md5"} {
		one, err := os.ReadFile(filepath.Join(a.home, "repo", "download", id[:3], id+suffix))
		require.NoError(t, err)
		other, err := os.ReadFile(filepath.Join(b.home, "repo", "download", id[:3], id+suffix))
		require.NoError(t, err)
		require.Equal(t, sum(one), sum(other), suffix)
	}
	require.NoFileExists(t, filepath.Join(b.home, "repo", "download", id[:3], id+".part"))
}

func TestReplicaCopiesWhileTheOwnerFetches(t *testing.T) {
	reg := newFakeRegistry(t)
	a, b := reg.join(t, "a", cdn.Config{}), reg.join(t, "b", cdn.Config{})
	content := randomContent(4*full + 9)
	g := newGate(t, content, 2*full+1000)
	o := serveOrigin(t, withValidators(g))
	id := idOf("live")
	reg.write(id, o, 7, "a", "b")
	stream := a.seedSmall(t, id, o.source())
	b.awaitPieces(t, id, 2)
	status, wrapped := b.get(t, path(id), "bytes="+piece.Range(1, size))
	require.Equal(t, http.StatusPartialContent, status, "a copied piece is served at once")
	require.Len(t, wrapped, size)
	listening := b.follow(t, id, false)
	g.open()
	_, err := receiveAll(stream)
	require.NoError(t, err)
	got, err := receiveAll(listening)
	require.NoError(t, err)
	b.check(t, id, got, content)
	sameFiles(t, id, a, b)
	require.Len(t, o.seen(), 1)
	require.EqualValues(t, len(content), a.counter(t, "supernode_cdn_fetched_bytes_total"))
	require.Zero(t, b.counter(t, "supernode_cdn_fetched_bytes_total"))
	for _, u := range reg.of(id) {
		require.Equal(t, "a", u.GetOwner(), "a replica reports nothing to the registry")
	}

	// After its promotion it serves its copy.
	a.stop()
	reg.write(id, o, 8, "b")
	got, err = receiveAll(b.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8, Expected: got.facts}))
	require.NoError(t, err)
	b.check(t, id, got, content)
	require.Len(t, o.seen(), 1)
}

// promotion makes a replica the owner during the fetch of the previous owner, when it has
// two pieces of three.
func promotion(t *testing.T, first http.HandlerFunc) (b *node, o *origin, stream grpc.ServerStreamingClient[cdnv1.SeedResponse]) {
	t.Helper()
	reg := newFakeRegistry(t)
	a, b := reg.join(t, "a", cdn.Config{}), reg.join(t, "b", cdn.Config{})
	o = serveOrigin(t, first)
	id := idOf("promoted")
	reg.write(id, o, 7, "a", "b")
	a.seedSmall(t, id, o.source())
	b.awaitPieces(t, id, 2)
	s, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
	require.NoError(t, err)
	a.stop()
	reg.write(id, o, 8, "b")
	return b, o, b.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 8, Expected: s.GetFacts()})
}

func TestPromotedReplicaResumesTheFetch(t *testing.T) {
	content := randomContent(2*full + 5000)
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			file(content, `"v1"`)(w, r)
			return
		}
		withValidators(&gate{content: content, first: 2*full + 1000, opened: make(chan struct{})})(w, r)
	}
	b, o, stream := promotion(t, handler)
	got, err := receiveAll(stream)
	require.NoError(t, err)
	b.check(t, idOf("promoted"), got, content)
	require.Len(t, o.seen(), 2)
	require.Equal(t, rangeOf(2, 3, len(content)), o.seen()[1].Header.Get("Range"))
	require.EqualValues(t, 5000, b.counter(t, "supernode_cdn_fetched_bytes_total"))
}

// firstThen answers the first request with one handler and all others with another.
func firstThen(first, then http.HandlerFunc) http.HandlerFunc {
	var asked atomic.Bool
	return func(w http.ResponseWriter, r *http.Request) {
		if asked.Swap(true) {
			then(w, r)
			return
		}
		first(w, r)
	}
}

func TestPromotedReplicaWithASourceThatCannotResume(t *testing.T) {
	content, changed := randomContent(2*full+5000), randomContent(2*full+5000)
	changed[full]++ // in a piece that the replica has
	for name, c := range map[string]struct {
		first, then http.HandlerFunc
		reason      rpcerr.Reason
	}{
		"no names, same":         {newGate(t, content, 2*full+1000).ServeHTTP, plainFile(content), ""},
		"no names, changed":      {newGate(t, content, 2*full+1000).ServeHTTP, plainFile(changed), rpcerr.SourceBroken},
		"no names, other length": {newGate(t, content, 2*full+1000).ServeHTTP, plainFile(content[:2*full+10]), rpcerr.SourceBroken},
		"no ranges, same":        {withValidators(newGate(t, content, 2*full+1000)), withValidators(plainFile(content)), ""},
		"no ranges, lies":        {withValidators(newGate(t, content, 2*full+1000)), withValidators(plainFile(changed)), rpcerr.SourceBroken},
		"changed":                {withValidators(newGate(t, content, 2*full+1000)), file(changed, `"v2"`), rpcerr.SourceBroken},
		"bad time":               {withValidators(newGate(t, content, 2*full+1000)), firstThen(answer(503), file(content, `"v1"`)), ""},
		"gone":                   {withValidators(newGate(t, content, 2*full+1000)), answer(404), rpcerr.SourceNotFound},
	} {
		t.Run(name, func(t *testing.T) {
			b, o, stream := promotion(t, firstThen(c.first, c.then))
			got, err := receiveAll(stream)
			if name != "bad time" {
				require.Len(t, o.seen(), 2)
			}
			if c.reason != "" {
				requireReason(t, err, c.reason)
				requireNoFiles(t, b, idOf("promoted"))
				return
			}
			require.NoError(t, err)
			b.check(t, idOf("promoted"), got, content)
		})
	}
}

// If the source is unavailable for long, the fetch fails, and the partial copy is resumed
// when the source returns.
func TestPromotedReplicaWithAnUnavailableSource(t *testing.T) {
	content := randomContent(2*full + 5000)
	b, o, stream := promotion(t, firstThen(withValidators(newGate(t, content, 2*full+1000)), answer(503)))
	_, err := receiveAll(stream)
	requireReason(t, err, rpcerr.SourceUnreachable)
	o.set(file(content, `"v1"`))
	seen := len(o.seen())
	got, err := receiveAll(b.startSeed(t, &cdnv1.SeedRequest{TaskId: idOf("promoted"), Source: o.source(), Epoch: 8}))
	require.NoError(t, err)
	b.check(t, idOf("promoted"), got, content)
	require.Equal(t, []string{rangeOf(2, 3, len(content))}, o.ranges(seen))
}

func TestReplicasOfAllLengths(t *testing.T) {
	reg := newFakeRegistry(t)
	a, b := reg.join(t, "a", cdn.Config{}), reg.join(t, "b", cdn.Config{})
	for name, length := range map[string]int{"empty": 0, "one byte": 1, "a piece": full, "two pieces": 2 * full, "more": 3*full + 1} {
		content := randomContent(length)
		for kind, handler := range map[string]http.HandlerFunc{
			"": plainFile(content), " of unknown length": func(w http.ResponseWriter, _ *http.Request) {
				_ = http.NewResponseController(w).Flush()
				_, _ = w.Write(content)
			},
		} {
			id := idOf(name + kind)
			o := serveOrigin(t, handler)
			reg.write(id, o, 7, "a", "b")
			got, err := receiveAll(a.seedSmall(t, id, o.source()))
			require.NoError(t, err, name)
			a.check(t, id, got, content)
			b.awaitWhole(t, id, content)
			sameFiles(t, id, a, b)
			require.Len(t, o.seen(), 1)
		}
	}
}

// A replica stops copying when its record does not name it any more.
func TestReplicaStopsCopyingIfItsRecordDoesNotNameIt(t *testing.T) {
	reg := newFakeRegistry(t)
	a, b := reg.join(t, "a", cdn.Config{}), reg.join(t, "b", cdn.Config{})
	content := randomContent(3 * full)
	g := newGate(t, content, full+1000)
	o := serveOrigin(t, withValidators(g))
	id := idOf("released")
	reg.write(id, o, 7, "a", "b")
	stream := a.seedSmall(t, id, o.source())
	b.awaitPieces(t, id, 1)
	follow := b.follow(t, id, true)
	reg.write(id, o, 7, "a")
	got, err := receiveAll(follow)
	require.Error(t, err)
	require.Len(t, got.pieces, 1)
	g.open()
	_, err = receiveAll(stream)
	require.NoError(t, err)
	s, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
	require.True(t, err != nil || s.GetResult() == nil, "the copy was stopped")
}

func TestSeedWithAnotherExpectedVersion(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(5 << 20)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("expected")
	date := modified.Format(http.TimeFormat)
	want := &cdnv1.SourceFacts{Length: int64(len(content)), PieceSize: piece.DefaultSize, Etag: `"v0"`, LastModified: date}
	_, err := receiveAll(n.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7, Expected: want}))
	requireReason(t, err, rpcerr.SourceBroken)
	requireNoFiles(t, n, id)
	want.Etag = `"v1"`
	got, err := receiveAll(n.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7, Expected: want}))
	require.NoError(t, err)
	n.check(t, id, got, content)
	want = &cdnv1.SourceFacts{Length: int64(len(content)), PieceSize: 5 << 20, Etag: `"v1"`, LastModified: date}
	got, err = receiveAll(n.startSeed(t, &cdnv1.SeedRequest{TaskId: idOf("size"), Source: o.source(), Epoch: 7, Expected: want}))
	require.NoError(t, err)
	require.EqualValues(t, 5<<20, got.facts.GetPieceSize())
	n.check(t, idOf("size"), got, content)
}

func TestStayEndsWithTheCopy(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("stay")
	seed := n.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7, Stay: true})
	await := func(stream grpc.ServerStreamingClient[cdnv1.SeedResponse]) {
		for result := (*cdnv1.SeedResult)(nil); result == nil; {
			event, err := stream.Recv()
			require.NoError(t, err)
			result = event.GetResult()
		}
	}
	await(seed)
	follow := n.follow(t, id, true)
	await(follow)
	_, err := n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: id})
	require.NoError(t, err)
	for _, stream := range []grpc.ServerStreamingClient[cdnv1.SeedResponse]{seed, follow} {
		_, err = stream.Recv()
		require.False(t, errors.Is(err, io.EOF))
		requireReason(t, err, rpcerr.TaskDeleted)
	}
	_, err = n.follow(t, id, true).Recv()
	requireReason(t, err, rpcerr.TaskNotFound)
}

// Copies on disk are announced after a restart, before the first Seed.
func TestFollowAfterARestart(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(3 * full)
	o := serveOrigin(t, withValidators(newGate(t, content, 2*full+1000)))
	id, whole := idOf("part"), idOf("whole")
	n.seedSmall(t, id, o.source())
	n.awaitPieces(t, id, 2)
	o.set(file(content, `"v1"`))
	n.mustSeed(t, whole, o.source(), content)
	n.stop()
	again := start(t, cdn.Config{HomeDir: n.home})
	got, err := receiveAll(again.follow(t, id, false))
	requireReason(t, err, rpcerr.CopyPartial)
	require.Len(t, got.pieces, 2)
	require.EqualValues(t, len(content), got.facts.GetLength())
	status, wrapped := again.get(t, path(id), "bytes="+piece.Range(1, size))
	require.Equal(t, http.StatusPartialContent, status)
	require.Len(t, wrapped, size)
	got, err = receiveAll(again.follow(t, whole, false))
	require.NoError(t, err)
	again.check(t, whole, got, content)
	require.Len(t, o.seen(), 2)
}

// The recorded copy may have been split with another default piece size.
func TestSeedUsesTheRecordedPieceSizeForTheRecordedVersion(t *testing.T) {
	reg := newFakeRegistry(t)
	a := reg.join(t, "a", cdn.Config{})
	content, other := randomContent(3*full), randomContent(4*full)
	recorded := &cdnv1.SourceFacts{
		Length: int64(len(content)), PieceSize: size, Etag: `"v1"`, LastModified: modified.Format(http.TimeFormat),
	}
	for name, c := range map[string]struct {
		source  http.HandlerFunc
		content []byte
		size    int32
	}{
		"same":  {file(content, `"v1"`), content, size},
		"other": {file(other, `"v2"`), other, piece.MinSize},
	} {
		o := serveOrigin(t, c.source)
		id, last := idOf(name), idOf(name+", last")
		reg.writeFacts(id, o, 7, recorded, "a")
		reg.write(last, o, 9, "a")
		eventually(t, func() bool { // the records are delivered in this order
			_, err := receiveAll(a.startSeed(t, &cdnv1.SeedRequest{TaskId: last, Source: o.source(), Epoch: 8}))
			return rpcerr.ReasonOf(err) == rpcerr.StaleEpoch
		})
		got, err := receiveAll(a.startSeed(t, &cdnv1.SeedRequest{TaskId: id, Source: o.source(), Epoch: 7}))
		require.NoError(t, err)
		require.Equal(t, c.size, got.facts.GetPieceSize(), name)
		a.check(t, id, got, c.content)
	}
}
