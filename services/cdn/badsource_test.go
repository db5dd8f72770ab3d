package cdn_test

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

// rawAnswer answers with bytes that a Go HTTP server would not send.
func rawAnswer(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, answer)
		_ = conn.Close()
	}
}

// Invalid answers of a source must neither crash the instance nor be reported as its own
// failure.
func TestInvalidAnswersOfTheSourceFailTheTask(t *testing.T) {
	n := start(t, cdn.Config{})
	for name, c := range map[string]struct {
		ranges, answer string
		reason         rpcerr.Reason
	}{
		"length":        {"", "HTTP/1.1 200 OK\r\nContent-Length: 9223372036854775807\r\n\r\nabc", rpcerr.SourceBroken},
		"range, length": {"bytes=0-", "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9223372036854775806/*\r\n\r\nabc", rpcerr.SourceBroken},
		"header":        {"", "HTTP/1.1 200 OK\r\n\xff\xfe\r\n\r\n", rpcerr.SourceUnreachable},
		"chunk":         {"", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\xff\xfe\r\n\r\n", rpcerr.SourceBroken},
	} {
		src := serveOrigin(t, rawAnswer(c.answer)).source()
		if c.ranges != "" {
			src.Headers = []string{"Range: " + c.ranges}
		}
		_, err := n.seed(t, idOf(name), src)
		require.Equal(t, c.reason, rpcerr.ReasonOf(err), name)
		requireNoFiles(t, n, idOf(name))
	}
}

func TestAnswerWithAnotherRangeIsRejected(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(1000)
	for name, c := range map[string]struct{ asked, given string }{
		"elsewhere":            {"bytes=100-299", "bytes=0-199"},
		"longer":               {"bytes=100-299", "bytes=100-399"},
		"shorter":              {"bytes=100-299", "bytes=100-198"},
		"shorter, to the end":  {"bytes=100-", "bytes=100-998"},
		"shorter, from behind": {"bytes=-100", "bytes=-99"},
	} {
		o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
			r.Header.Set("Range", c.given)
			file(content, "")(w, r)
		})
		src := o.source()
		src.Headers = []string{"Range: " + c.asked}
		_, err := n.seed(t, idOf(name), src)
		require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err), name)
	}
	for ranges, want := range map[string][]byte{
		"bytes=900-5000": content[900:], "bytes=-100": content[900:], "bytes=-5000": content,
		"bytes=0-": content, "bytes=7-7": content[7:8],
	} {
		src := serveOrigin(t, file(content, "")).source()
		src.Headers = []string{"Range: " + ranges}
		n.mustSeed(t, idOf(ranges), src, want)
	}
}

// A Last-Modified date has a resolution of one second: content that changed in the second
// of the answer may change again without a new date.
func TestCutOffSourceWithARecentDateIsNotResumed(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(9 << 20)
	date := modified.Format(http.TimeFormat)
	o := serveOrigin(t, interrupted(content, 1, 5<<20,
		http.Header{"Accept-Ranges": {"bytes"}, "Last-Modified": {date}, "Date": {date}}, file(randomContent(9<<20), "")))
	_, err := n.seed(t, idOf("young"), o.source())
	requireReason(t, err, rpcerr.SourceBroken)
	require.Len(t, o.seen(), 1)
}

// A source that interrupts every answer can be fetched if each answer completes another
// piece.
func TestSourceThatCutsOffEveryAnswerIsFetched(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(24 << 20)
	o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Accept-Ranges", "bytes")
		var first int
		status := http.StatusOK
		if from, ok := strings.CutPrefix(r.Header.Get("Range"), "bytes="); ok {
			first, _ = strconv.Atoi(strings.TrimSuffix(from, "-"))
			status = http.StatusPartialContent
			w.Header().Set("Content-Range", "bytes "+strconv.Itoa(first)+"-"+strconv.Itoa(len(content)-1)+"/"+strconv.Itoa(len(content)))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)-first))
		w.WriteHeader(status)
		_, _ = w.Write(content[first:min(len(content), first+5<<20)])
		_ = http.NewResponseController(w).Flush()
		if first+5<<20 < len(content) {
			panic(http.ErrAbortHandler)
		}
	})
	n.mustSeed(t, idOf("again and again"), o.source(), content)
	require.Greater(t, len(o.seen()), 4)
}

func TestTricklingSourceTimesOut(t *testing.T) {
	t.Parallel()
	n := start(t, cdn.Config{IdleTimeout: stalled})
	o := serveOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "9000000")
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return
			}
		}
	})
	_, err := n.seed(t, idOf("trickle"), o.source())
	requireReason(t, err, rpcerr.SourceBroken)
}

// A copy that was served from disk before its first Seed is not found any more after its
// source has answered 404.
func TestStatDoesNotFindACopyWhoseSourceIsGone(t *testing.T) {
	content := randomContent(1000)
	id := idOf("given up")
	o := serveOrigin(t, file(content, `"v1"`))
	home := homeWithCopy(t, id, o.source(), content)
	n := start(t, cdn.Config{HomeDir: home})
	status, _ := n.get(t, path(id), "bytes=0-99")
	require.Equal(t, http.StatusPartialContent, status)
	o.set(answer(404))
	_, err := n.seed(t, id, o.source())
	requireReason(t, err, rpcerr.SourceNotFound)
	_, err = n.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
	requireReason(t, err, rpcerr.TaskNotFound)
}

// A process that was killed leaves content without .meta. Its task may never be requested
// again.
func TestFilesOfAKilledProcessAreRemovedAtStart(t *testing.T) {
	content := randomContent(1000)
	whole, half := idOf("whole"), idOf("half")
	o := serveOrigin(t, file(content, `"v1"`))
	home := homeWithCopy(t, whole, o.source(), content)
	dir := filepath.Join(home, "repo", "download", half[:3])
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range []string{half, half + ".md5", half + ".md5.tmp", half + ".meta.tmp", "other.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	n := start(t, cdn.Config{HomeDir: home})
	found, err := filepath.Glob(filepath.Join(dir, "*"))
	require.NoError(t, err)
	require.Equal(t, []string{filepath.Join(dir, "other.txt")}, found, "only files of the CDN are removed")
	n.mustSeed(t, whole, o.source(), content)
	n.awaitFetch(t, "cached")
}
