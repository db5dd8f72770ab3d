package cdn_test

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

func TestContentsOfAllLengths(t *testing.T) {
	n := start(t, cdn.Config{})
	const full, unknown = piece.MinSize - piece.WrapLength, piece.DefaultSize - piece.WrapLength
	for name, length := range map[string]int{
		"empty": 0, "one byte": 1, "small": 300_000, "one piece exactly": full,
		"one byte more": full + 1, "three pieces exactly": 3 * full, "9 MB": 9 << 20,
		"one large piece exactly": unknown, "one byte more than a large piece": unknown + 1,
		"three large pieces exactly": 3 * unknown,
	} {
		content := randomContent(length)
		t.Run(name, func(t *testing.T) {
			o := serveOrigin(t, plainFile(content))
			got := n.mustSeed(t, idOf(name), o.source(), content)
			require.EqualValues(t, length, got.facts.GetLength())
			require.EqualValues(t, piece.MinSize, got.facts.GetPieceSize())
			require.Len(t, o.seen(), 1)
			require.Equal(t, http.MethodGet, o.seen()[0].Method)
			require.Equal(t, "identity", o.seen()[0].Header.Get("Accept-Encoding"))
		})
		t.Run(name+" of unknown length", func(t *testing.T) {
			o := serveOrigin(t, func(w http.ResponseWriter, _ *http.Request) {
				require.NoError(t, http.NewResponseController(w).Flush())
				_, _ = w.Write(content)
			})
			got := n.mustSeed(t, idOf(name+"?"), o.source(), content)
			require.EqualValues(t, -1, got.facts.GetLength())
			require.EqualValues(t, piece.DefaultSize, got.facts.GetPieceSize())
		})
	}
}

func TestManyListenersShareOneFetch(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 18)
	g := newGate(t, content, 5<<18)
	o := serveOrigin(t, g.ServeHTTP)
	id := idOf("shared")

	first := n.startDefaultSeed(t, id, o.source())
	event, err := first.Recv()
	require.NoError(t, err)
	require.EqualValues(t, len(content), event.GetFacts().GetLength())
	event, err = first.Recv()
	require.NoError(t, err)
	require.NotNil(t, event.GetPiece(), "a piece is announced while the source still sends")

	// Only pieces that have landed are served.
	status, _ := n.get(t, path(id), "bytes="+piece.Range(0, piece.MinSize))
	require.Equal(t, http.StatusPartialContent, status)
	for _, r := range []string{piece.Range(1, piece.MinSize), piece.Range(2, piece.MinSize), "0-2097151", "0-"} {
		status, _ = n.get(t, path(id), "bytes="+r)
		require.Equal(t, http.StatusRequestedRangeNotSatisfiable, status, r)
	}
	status, _ = n.get(t, path(id), "")
	require.Equal(t, http.StatusNotFound, status)

	const listeners = 50
	answers, errs := make([]received, listeners), make([]error, listeners)
	var wg sync.WaitGroup
	for i := range listeners {
		stream := n.startDefaultSeed(t, id, o.source())
		wg.Go(func() { answers[i], errs[i] = receiveAll(stream) })
	}
	g.open()
	wg.Wait()
	for i := range listeners {
		require.NoError(t, errs[i])
		require.Len(t, answers[i].pieces, 3)
	}
	n.check(t, id, answers[0], content)
	n.mustSeed(t, id, o.source(), content) // a listener that comes after the fetch
	require.Len(t, o.seen(), 1)
	n.awaitFetch(t, "success")
	require.EqualValues(t, len(content), n.counter(t, "supernode_cdn_fetched_bytes_total"))
	require.EqualValues(t, 1, n.counter(t, "supernode_cdn_tasks"))
}

func TestFetchContinuesAfterAListenerLeaves(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 18)
	g := newGate(t, content, 5<<18)
	o := serveOrigin(t, g.ServeHTTP)
	id := idOf("leaver")
	ctx, leave := contextOf(t)
	stream, err := n.Seed(ctx, &cdnv1.SeedRequest{TaskId: id, Source: o.source()})
	require.NoError(t, err)
	_, err = stream.Recv()
	require.NoError(t, err)
	leave()
	_, err = receiveAll(stream)
	require.Error(t, err)
	g.open()
	n.mustSeed(t, id, o.source(), content)
	require.Len(t, o.seen(), 1)
}

func TestSlowSourceCausesProvisionalFacts(t *testing.T) {
	n := start(t, cdn.Config{FactsTimeout: 1})
	content := randomContent(1000)
	answer := make(chan struct{})
	o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		<-answer
		file(content, `"v1"`)(w, r)
	})
	id := idOf("silent")
	stream := n.startDefaultSeed(t, id, o.source())
	event, err := stream.Recv()
	require.NoError(t, err)
	require.EqualValues(t, -1, event.GetFacts().GetLength())
	require.EqualValues(t, piece.DefaultSize, event.GetFacts().GetPieceSize())
	close(answer)
	late := n.mustSeed(t, id, o.source(), content)
	require.EqualValues(t, piece.DefaultSize, late.facts.GetPieceSize())
	for result := (*cdnv1.SeedResult)(nil); result == nil; result = event.GetResult() {
		event, err = stream.Recv()
		require.NoError(t, err)
		require.Nil(t, event.GetFacts(), "facts come once")
	}
}

func TestInvalidRequests(t *testing.T) {
	n := start(t, cdn.Config{})
	for name, req := range map[string]*cdnv1.SeedRequest{
		"no id":         {Source: &cdnv1.Source{Url: "http://127.0.0.1/"}},
		"path as id":    {TaskId: "../../etc/passwd", Source: &cdnv1.Source{Url: "http://127.0.0.1/"}},
		"no source":     {TaskId: idOf("x")},
		"scheme":        {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "ftp://127.0.0.1/"}},
		"no host":       {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "http:///file"}},
		"unreadable":    {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "http://127.0.0.1:port/"}},
		"header":        {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "http://127.0.0.1/", Headers: []string{"no colon"}}},
		"header value":  {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "http://127.0.0.1/", Headers: []string{"A: b\r\nC: d"}}},
		"two ranges":    {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "http://127.0.0.1/", Headers: []string{"Range: bytes=0-1", "range: bytes=2-3"}}},
		"md5":           {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "http://127.0.0.1/", Md5: "d41d8cd98f00b204"}},
		"root":          {TaskId: idOf("x"), Source: &cdnv1.Source{Url: "https://127.0.0.1/", RootCas: [][]byte{[]byte("not PEM")}}},
		"epoch":         {TaskId: idOf("x"), Epoch: -1, Source: &cdnv1.Source{Url: "http://127.0.0.1/"}},
		"upper-case id": {TaskId: "A" + idOf("x")[1:], Source: &cdnv1.Source{Url: "http://127.0.0.1/"}},
	} {
		stream, err := n.Seed(t.Context(), req)
		require.NoError(t, err)
		_, err = stream.Recv()
		requireReason(t, err, rpcerr.InvalidArgument)
		require.NotContains(t, err.Error(), "no colon", name)
	}
	_, err := n.Stat(t.Context(), &cdnv1.StatRequest{TaskId: "x"})
	requireReason(t, err, rpcerr.InvalidArgument)
	_, err = n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: "x"})
	requireReason(t, err, rpcerr.InvalidArgument)
	require.Zero(t, n.counter(t, "supernode_cdn_tasks"))
}

func TestStatAndDelete(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 18)
	g := newGate(t, content, 5<<18)
	o := serveOrigin(t, g.ServeHTTP)
	id := idOf("deleted")
	stat := func() (*cdnv1.StatResponse, error) { return n.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id}) }
	_, err := stat()
	requireReason(t, err, rpcerr.TaskNotFound)
	_, err = n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: id})
	require.NoError(t, err)

	stream := n.startDefaultSeed(t, id, o.source())
	eventually(t, func() bool {
		s, err := stat()
		return err == nil && s.GetPieceCount() == 1 && s.GetFacts() != nil && s.GetResult() == nil
	})
	_, err = n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: id}) // during the fetch
	require.NoError(t, err)
	_, err = receiveAll(stream)
	requireReason(t, err, rpcerr.TaskDeleted)
	_, err = stat()
	requireReason(t, err, rpcerr.TaskNotFound)
	requireNoFiles(t, n, id)
	status, _ := n.get(t, path(id), "bytes="+piece.Range(0, piece.MinSize))
	require.Equal(t, http.StatusNotFound, status)

	o.set(plainFile(content))
	n.mustSeed(t, id, o.source(), content) // fetched from scratch
	s, err := stat()
	require.NoError(t, err)
	require.EqualValues(t, len(content), s.GetResult().GetLength())
	_, err = n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: id}) // when whole
	require.NoError(t, err)
	requireNoFiles(t, n, id)
	require.Len(t, o.seen(), 2)
	require.Zero(t, n.counter(t, "supernode_cdn_tasks"))
}

// With concurrent calls of Seed and Delete every stream ends, either with the result or
// with TASK_DELETED.
func TestSeedAndDeleteAtTheSameTime(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(5 << 18)
	o := serveOrigin(t, file(content, `"v1"`))
	id := idOf("contended")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
				stream, err := n.Seed(ctx, &cdnv1.SeedRequest{TaskId: id, Source: o.source()})
				if assert.NoError(t, err) {
					got, err := receiveAll(stream)
					switch {
					case err != nil:
						assert.Equal(t, rpcerr.TaskDeleted, rpcerr.ReasonOf(err), "%v", err)
					default:
						assert.Equal(t, sum(content), got.result.GetMd5())
						assert.Len(t, got.pieces, 2)
					}
				}
				cancel()
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 20 {
				_, err := n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: id})
				assert.NoError(t, err)
			}
		})
	}
	wg.Wait()
	n.mustSeed(t, id, o.source(), content)
}

func TestDeleteWhileTheSourceIsSilent(t *testing.T) {
	n := start(t, cdn.Config{})
	asked := make(chan struct{})
	o := serveOrigin(t, func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	id := idOf("silent")
	stream := n.startDefaultSeed(t, id, o.source())
	<-asked
	_, err := n.Delete(t.Context(), &cdnv1.DeleteRequest{TaskId: id})
	require.NoError(t, err)
	_, err = receiveAll(stream)
	requireReason(t, err, rpcerr.TaskDeleted)
}

func requireNoFiles(t *testing.T, n *node, id string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(n.home, "repo", "download", id[:3], "*"))
	require.NoError(t, err)
	require.Empty(t, found)
}

func TestFilesThatVanishAreFetchedAgain(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	o := serveOrigin(t, plainFile(content))
	id := idOf("vanished")
	n.mustSeed(t, id, o.source(), content)
	require.NoError(t, os.Remove(filepath.Join(n.home, "repo", "download", id[:3], id)))
	status, _ := n.get(t, path(id), "bytes=0-99")
	require.Equal(t, http.StatusNotFound, status)
	n.mustSeed(t, id, o.source(), content)
	require.Len(t, o.seen(), 2)
}
