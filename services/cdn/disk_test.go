package cdn_test

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

// homeWithCopy runs an instance that fetches content, and returns its home directory.
func homeWithCopy(t *testing.T, id string, src *cdnv1.Source, content []byte) string {
	t.Helper()
	n := start(t, cdn.Config{})
	n.mustSeed(t, id, src, content)
	n.stop()
	return n.home
}

func TestRestartAsksTheSourceOnce(t *testing.T) {
	content, changed := randomContent(9<<20), randomContent(5<<20)
	id := idOf("restart")
	for name, c := range map[string]struct {
		before, after http.HandlerFunc
		want          []byte
		result        string
		requests      int
	}{
		"not modified by etag": {file(content, `"v1"`), file(content, `"v1"`), content, "cached", 2},
		"not modified by date": {file(content, ""), file(content, ""), content, "cached", 2},
		"modified":             {file(content, `"v1"`), file(changed, `"v2"`), changed, "success", 2},
		"no validator":         {plainFile(content), plainFile(changed), changed, "success", 2},
		"bad time":             {file(content, `"v1"`), answer(503), content, "cached", 2},
	} {
		t.Run(name, func(t *testing.T) {
			o := serveOrigin(t, c.before)
			home := homeWithCopy(t, id, o.source(), content)
			o.set(c.after)
			n := start(t, cdn.Config{HomeDir: home})
			n.mustSeed(t, id, o.source(), c.want)
			n.mustSeed(t, id, o.source(), c.want) // the task is in memory: the source is not asked
			require.Len(t, o.seen(), c.requests)
			n.awaitFetch(t, c.result)
		})
	}
}

func answer(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

func TestRestartWithoutSource(t *testing.T) {
	content := randomContent(9 << 20)
	id := idOf("restart")
	o := serveOrigin(t, file(content, `"v1"`))
	home := homeWithCopy(t, id, o.source(), content)
	src := o.source()
	o.Close()
	n := start(t, cdn.Config{HomeDir: home})
	n.mustSeed(t, id, src, content)
}

func TestRestartWithWrongCredentialsKeepsTheCopy(t *testing.T) {
	content := randomContent(1000)
	id := idOf("restart")
	o := serveOrigin(t, file(content, `"v1"`))
	home := homeWithCopy(t, id, o.source(), content)
	n := start(t, cdn.Config{HomeDir: home})
	o.set(answer(401))
	_, err := n.seed(t, id, o.source())
	requireReason(t, err, rpcerr.SourceAuthRequired)
	o.set(file(content, `"v1"`))
	n.mustSeed(t, id, o.source(), content)
	n.awaitFetch(t, "cached")

	n.stop()
	o.set(answer(404))
	n = start(t, cdn.Config{HomeDir: home})
	_, err = n.seed(t, id, o.source())
	requireReason(t, err, rpcerr.SourceNotFound)
	requireNoFiles(t, n, id)
}

func TestRestartOfATaskNamedByItsContent(t *testing.T) {
	content := randomContent(1000)
	id := idOf("restart")
	o := serveOrigin(t, file(content, `"v1"`))
	src := o.source()
	src.Md5 = sum(content)
	home := homeWithCopy(t, id, src, content)
	n := start(t, cdn.Config{HomeDir: home})
	n.mustSeed(t, id, src, content)
	require.Len(t, o.seen(), 1)
}

// If the source does not answer in time, the provisional facts must have the piece size
// of the copy on disk.
func TestRestartWithSilentSourceKeepsThePieceSize(t *testing.T) {
	content := randomContent(1000)
	id := idOf("restart")
	o := serveOrigin(t, file(content, `"v1"`))
	home := homeWithCopy(t, id, o.source(), content)
	const odd = 5 << 20
	recut(t, home, id, content, odd)
	answered := make(chan struct{})
	o.set(func(w http.ResponseWriter, r *http.Request) {
		<-answered
		file(content, `"v1"`)(w, r)
	})
	n := start(t, cdn.Config{HomeDir: home, FactsTimeout: 1})
	stream := n.startDefaultSeed(t, id, o.source())
	event, err := stream.Recv()
	require.NoError(t, err)
	require.EqualValues(t, odd, event.GetFacts().GetPieceSize())
	require.EqualValues(t, -1, event.GetFacts().GetLength())
	close(answered)
	n.mustSeed(t, id, o.source(), content)
	n.awaitFetch(t, "cached")
}

// recut changes the piece size of a whole copy of one piece.
func recut(t *testing.T, home, id string, content []byte, size int32) {
	t.Helper()
	base := filepath.Join(home, "repo", "download", id[:3], id)
	wrapped := make([]byte, piece.HeadLength, len(content)+piece.WrapLength)
	piece.PutHead(wrapped, len(content), size)
	wrapped = append(append(wrapped, content...), piece.Tail)
	lines := []string{piece.Digest(sum(wrapped), int32(len(wrapped))), sum(content)}
	lines = append(lines, sha1Of(strings.Join(lines, "")))
	require.NoError(t, os.WriteFile(base, wrapped, 0o600))
	require.NoError(t, os.WriteFile(base+".md5", []byte(strings.Join(lines, "\n")), 0o600))
	editMeta(t, base, map[string]any{"pieceSize": size})
}

func editMeta(t *testing.T, base string, change map[string]any) {
	t.Helper()
	data, err := os.ReadFile(base + ".meta")
	require.NoError(t, err)
	var meta map[string]any
	require.NoError(t, json.Unmarshal(data, &meta))
	maps.Copy(meta, change)
	data, err = json.Marshal(meta)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(base+".meta", data, 0o600))
}

func TestBrokenCopiesAreFetchedAgain(t *testing.T) {
	content := randomContent(5 << 20)
	id := idOf("broken")
	for name, spoil := range map[string]func(base string) error{
		"unfinished":   func(base string) error { editMeta(t, base, map[string]any{"finish": false}); return nil },
		"failed":       func(base string) error { editMeta(t, base, map[string]any{"success": false}); return nil },
		"other task":   func(base string) error { editMeta(t, base, map[string]any{"taskID": idOf("x")}); return nil },
		"other length": func(base string) error { editMeta(t, base, map[string]any{"fileLength": 3}); return nil },
		"other md5":    func(base string) error { editMeta(t, base, map[string]any{"realMd5": sum(nil)}); return nil },
		"piece size":   func(base string) error { editMeta(t, base, map[string]any{"pieceSize": 1 << 30}); return nil },
		"torn meta":    func(base string) error { return os.Truncate(base+".meta", 20) },
		"no meta":      func(base string) error { return os.Remove(base + ".meta") },
		"torn md5":     func(base string) error { return os.Truncate(base+".md5", 50) },
		"no md5":       func(base string) error { return os.Remove(base + ".md5") },
		"no content":   func(base string) error { return os.Remove(base) },
		"short":        func(base string) error { return os.Truncate(base, 5<<20) },
		"never written": func(base string) error { // as after a power failure
			f, err := os.OpenFile(base, os.O_WRONLY, 0)
			require.NoError(t, err)
			_, err = f.WriteAt(make([]byte, 8192), piece.MinSize-4096)
			require.NoError(t, err)
			return f.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := serveOrigin(t, file(content, `"v1"`))
			home := homeWithCopy(t, id, o.source(), content)
			require.NoError(t, spoil(filepath.Join(home, "repo", "download", id[:3], id)))
			n := start(t, cdn.Config{HomeDir: home})
			status, _ := n.get(t, path(id), "bytes=0-99")
			require.Equal(t, http.StatusNotFound, status)
			n.mustSeed(t, id, o.source(), content)
			n.awaitFetch(t, "success")
			require.Empty(t, o.seen()[1].Header.Get("If-None-Match"))
		})
	}
}

const (
	v1ID  = "83bd34df6ba4500b2a69546dbd88a6a0c626bdf99c2dd397ad7729099a732aef"
	v1MD5 = "39fcbe8882373fe8296a7121f7f5b860"
)

func v1Home(t *testing.T) string {
	t.Helper()
	home := t.TempDir()
	require.NoError(t, os.CopyFS(home, os.DirFS("testdata/v1-home")))
	return home
}

func TestCacheOfDragonflyV1IsServed(t *testing.T) {
	n := start(t, cdn.Config{HomeDir: v1Home(t)})
	status, wrapped := n.get(t, path(v1ID), "bytes="+piece.Range(0, piece.DefaultSize))
	require.Equal(t, http.StatusPartialContent, status, "before the first Seed")
	require.Equal(t, "f57f5f394a7cdbc3ed860c5a50b8e1dd", sum(wrapped))
	content, err := piece.Unwrap(wrapped, piece.DefaultSize)
	require.NoError(t, err)
	require.Equal(t, v1MD5, sum(content))
	s, err := n.Stat(t.Context(), &cdnv1.StatRequest{TaskId: v1ID})
	require.NoError(t, err)
	require.EqualValues(t, 300_000, s.GetFacts().GetLength())
	require.Equal(t, v1MD5, s.GetResult().GetMd5())

	o := serveOrigin(t, answer(304))
	n.mustSeed(t, v1ID, o.source(), content)
	require.Equal(t, `"6b032e1a-493e0"`, o.seen()[0].Header.Get("If-None-Match"))
	require.Equal(t, "Sun, 22 Nov 2026 18:02:02 GMT", o.seen()[0].Header.Get("If-Modified-Since"))

	n = start(t, cdn.Config{HomeDir: v1Home(t)})
	n.mustSeed(t, v1ID, &cdnv1.Source{Url: o.URL, Md5: v1MD5}, content)
	require.Len(t, o.seen(), 1)
}

// The files are equal to those that Dragonfly v1 wrote for the same source.
func TestFilesAreAsDragonflyV1WroteThem(t *testing.T) {
	old := filepath.Join("testdata/v1-home/repo/download", v1ID[:3], v1ID)
	wrapped, err := os.ReadFile(old)
	require.NoError(t, err)
	content, err := piece.Unwrap(wrapped, piece.DefaultSize)
	require.NoError(t, err)
	o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Last-Modified", "Sun, 22 Nov 2026 18:02:02 GMT")
		w.Header().Set("ETag", `"6b032e1a-493e0"`)
		plainFile(content)(w, r)
	})
	n := start(t, cdn.Config{})
	got, err := receiveAll(n.startSeed(t, &cdnv1.SeedRequest{
		TaskId: v1ID, Expected: &cdnv1.SourceFacts{Length: -1, PieceSize: piece.DefaultSize}, // the size that Dragonfly v1 chose
		Source: &cdnv1.Source{Url: strings.Replace(o.URL, "://", "://user:secret@", 1) + "/sample.bin#part"},
	}))
	require.NoError(t, err)
	n.check(t, v1ID, got, content)
	n.stop()
	home := n.home
	for _, suffix := range []string{"", ".md5"} {
		want, err := os.ReadFile(old + suffix)
		require.NoError(t, err)
		got, err := os.ReadFile(filepath.Join(home, "repo", "download", v1ID[:3], v1ID+suffix))
		require.NoError(t, err)
		require.Equal(t, sum(want), sum(got), suffix)
	}
	want, meta := metaOf(t, old), metaOf(t, filepath.Join(home, "repo", "download", v1ID[:3], v1ID))
	require.Positive(t, meta["accessTime"])
	require.Equal(t, o.URL+"/sample.bin", meta["url"], "no credentials on disk")
	for _, differs := range []string{"accessTime", "url"} {
		delete(want, differs)
		delete(meta, differs)
	}
	require.Equal(t, want, meta)
}

func metaOf(t *testing.T, base string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(base + ".meta")
	require.NoError(t, err)
	var meta map[string]any
	require.NoError(t, json.Unmarshal(data, &meta))
	return meta
}

// The kernel limits the size of files, which has the effect of a full disk.
func TestDiskFull(t *testing.T) {
	signal.Ignore(syscall.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(syscall.SIGXFSZ) })
	n := start(t, cdn.Config{})
	content := randomContent(9 << 20)
	g := newGate(t, content, 8<<20) // it sends the rest only when it is opened
	o := serveOrigin(t, g.ServeHTTP)
	id := idOf("full")

	var before syscall.Rlimit
	require.NoError(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 1 << 20, Max: before.Max}))
	_, err := n.seed(t, id, o.source())
	require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before))
	requireReason(t, err, rpcerr.DiskFull)
	requireNoFiles(t, n, id)

	o.set(plainFile(content))
	n.mustSeed(t, id, o.source(), content)
}

func TestHomeIsNotShared(t *testing.T) {
	n := start(t, cdn.Config{})
	listener := listen(t)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	_, err := cdn.New(cdn.Config{ID: "cdn-2", HomeDir: n.home}, cdn.Deps{
		Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(),
		Registry: registryv1.NewRegistryServiceClient(nil), Download: listener,
	})
	require.ErrorContains(t, err, "in use")
	n.stop()
	again := start(t, cdn.Config{HomeDir: n.home})
	content := randomContent(1000)
	again.mustSeed(t, idOf("again"), serveOrigin(t, plainFile(content)).source(), content)
}

// Pieces that were fetched before a stop are not fetched again if the source confirms
// their version.
func TestStopKeepsThePart(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 18)
	o := serveOrigin(t, withValidators(newGate(t, content, 5<<18)))
	id := idOf("stopped")
	stream := n.startDefaultSeed(t, id, o.source())
	for range 2 { // facts and a piece
		_, err := stream.Recv()
		require.NoError(t, err)
	}
	n.stop()
	_, err := receiveAll(stream)
	require.Error(t, err)
	require.Empty(t, rpcerr.ReasonOf(err), "a stop is not a failure of the task")
	for _, u := range n.records.of(id) {
		require.Equal(t, "RUNNING", statusesOf([]*update{u}))
	}
	o.set(file(content, `"v1"`))
	again := start(t, cdn.Config{HomeDir: n.home})
	again.mustSeed(t, id, o.source(), content)
	require.Len(t, o.seen(), 2)
	require.Equal(t, "bytes=1048571-2359295", o.seen()[1].Header.Get("Range"))
	require.Equal(t, `"v1"`, o.seen()[1].Header.Get("If-Range"))
	require.NoFileExists(t, filepath.Join(n.home, "repo", "download", id[:3], id+".part"))
}
