package peer

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	taskID = "cd71c34dd87c301ae592859bc137bada697da48f11dd1f9b4f5f9d1690c5ce85"
	cdn    = "cdnnode:127.0.0.5~" + taskID
	size   = 1000 // of a wrapped piece
)

// server answers pulls with the next of its answers, the last one again and
// again, and all other calls as a supernode does.
type server struct {
	*httptest.Server

	mu      sync.Mutex // guards what follows
	answers []string
	written int      // how many pieces must be reported before it answers finished
	calls   []string // without the cids of CDNs
}

func newServer(t *testing.T, answers ...string) *server {
	t.Helper()
	s := &server{answers: answers}
	s.Server = httptest.NewServer(http.HandlerFunc(s.handle))
	t.Cleanup(s.Close)
	return s
}

func (s *server) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	call := r.URL.Path
	body := `{"code":200}`
	switch call {
	case "/peer/registry":
		body = fmt.Sprintf(`{"code":200,"data":{"taskId":%q,"fileLength":%d,"pieceSize":%d}}`, taskID, 4*(size-5), size)
	case "/peer/task":
		call += fmt.Sprint(" ", q.Get("status"), " ", q.Get("result"), " ", q.Get("range"), " ", short(q.Get("dstCid")))
		body = s.answers[0]
		switch {
		case body == finished && s.written > 0:
			body = waits
		case len(s.answers) > 1:
			s.answers = s.answers[1:]
		}
	case "/peer/piece/suc":
		s.written--
		call += " " + q.Get("pieceRange") + " " + short(q.Get("dstCid"))
		body = `{"code":611}`
	case "/task/metrics":
		var m struct {
			Success bool
			TaskID  string
		}
		_ = json.NewDecoder(r.Body).Decode(&m)
		call += fmt.Sprint(" ", m.Success, " ", m.TaskID == taskID)
		body = `{"code":1}`
	}
	s.calls = append(s.calls, strings.TrimSpace(call))
	_, _ = io.WriteString(w, body)
}

func short(cid string) string {
	if cid == "" {
		return ""
	}
	return strings.SplitN(cid, ":", 2)[0]
}

func (s *server) made(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, c := range s.calls {
		if strings.HasPrefix(c, prefix) {
			list = append(list, c)
		}
	}
	return list
}

// offer is an answer that offers pieces.
func offer(from string, nums ...int) string {
	var items []string
	for _, n := range nums {
		items = append(items, fmt.Sprintf(`{"range":"%d-%d","pieceNum":%d,"pieceSize":%d,"cid":%q}`, n*size, (n+1)*size-1, n, size, from))
	}
	return `{"code":601,"data":[` + strings.Join(items, ",") + `]}`
}

func newPeer(t *testing.T, s *server, cfg Config, deps Deps) *Peer {
	t.Helper()
	u, err := url.Parse(s.URL)
	require.NoError(t, err)
	cfg.Address, cfg.URL = u.Host, "http://127.0.0.1:1/f"
	p, err := New(cfg, deps)
	require.NoError(t, err)
	return p
}

func newDeps() Deps { return Deps{Record: &record.Recorder{}, Directory: NewDirectory()} }

const (
	finished = `{"code":600,"data":{"md5":"","fileLength":4000}}`
	waits    = `{"code":602,"msg":"\"wait\""}`
)

func TestDownloadMakesTheCallsOfDfget(t *testing.T) {
	s := newServer(t, waits, offer(cdn, 0, 1, 2), offer(cdn, 3), finished)
	deps := newDeps()
	p := newPeer(t, s, Config{}, deps)
	require.NoError(t, p.Download(t.Context()))
	require.Equal(t, 4, p.Pieces())
	require.Equal(t, []string{
		"/peer/task 700 502", "/peer/task 700 502",
		"/peer/task 701 503 2000-2999 cdnnode", // merged: the others are reported through piece/suc
		"/peer/task 701 503 3000-3999 cdnnode",
	}, s.made("/peer/task"))
	require.ElementsMatch(t, []string{
		"/peer/piece/suc 0-999 cdnnode", "/peer/piece/suc 1000-1999 cdnnode", "/peer/piece/suc 2000-2999 cdnnode",
		"/peer/piece/suc 3000-3999 cdnnode",
	}, s.made("/peer/piece/suc"))
	require.Equal(t, []string{"/task/metrics true true"}, s.made("/task"))
	require.NoError(t, p.Leave(t.Context()))
	require.Len(t, s.made("/peer/service/down"), 1)
	require.Equal(t, map[int]int64{600: 1, 601: 2, 602: 1}, deps.Record.Answers())
	require.EqualValues(t, 4, deps.Record.FromCDN.Load())
	require.EqualValues(t, 1+4+4+1+1, deps.Record.Calls())
	require.Empty(t, deps.Directory.peers)
}

func TestPieceThatTakesTimeIsReportedAfterIt(t *testing.T) {
	s := newServer(t, offer(cdn, 0, 1, 2, 3), finished)
	s.written = 4
	p := newPeer(t, s, Config{PieceTime: 50 * time.Millisecond}, newDeps())
	began := time.Now()
	require.NoError(t, p.Download(t.Context()))
	require.GreaterOrEqual(t, time.Since(began), 50*time.Millisecond)
	require.Len(t, s.made("/peer/piece/suc"), 4)
}

func TestDownloadFromAPeerIsWhatThatPeerHas(t *testing.T) {
	deps := newDeps()
	first := newPeer(t, newServer(t, offer(cdn, 0, 1, 2), `{"code":610}`), Config{}, deps)
	require.ErrorContains(t, first.Download(t.Context()), "610")
	broken := newPeer(t, newServer(t, offer(cdn, 0, 1, 2, 3), finished), Config{Unreachable: true, Number: 1}, deps)
	require.NoError(t, broken.Download(t.Context()))

	s := newServer(t, offer(first.id.cid, 0), offer(first.id.cid, 3), offer(broken.id.cid, 3), offer("gone", 3), offer(cdn, 1, 2, 3), finished)
	p := newPeer(t, s, Config{Number: 2}, deps)
	require.NoError(t, p.Download(t.Context()))
	require.Equal(t, []string{
		"/peer/task 700 502", "/peer/task 701 503 0-999 " + first.id.cid,
		"/peer/task 701 500 3000-3999 " + first.id.cid, "/peer/task 701 500 3000-3999 " + broken.id.cid, "/peer/task 701 500 3000-3999 gone",
		"/peer/task 701 503 3000-3999 cdnnode",
	}, s.made("/peer/task"))
	require.Len(t, s.made("/peer/piece/error"), 1, "of the piece that the first does not have")
	require.EqualValues(t, 3, deps.Record.FailedPieces.Load())
	require.EqualValues(t, 1, deps.Record.FromPeers.Load())
}

func TestPeerThatCrashesSaysNothing(t *testing.T) {
	s := newServer(t, offer(cdn, 0), offer(cdn, 1), waits)
	deps := newDeps()
	p := newPeer(t, s, Config{CrashAfter: 0.5}, deps)
	require.ErrorIs(t, p.Download(t.Context()), ErrCrashed)
	require.Empty(t, s.made("/task"))
	require.Empty(t, deps.Directory.peers)
}

func TestPeerThatHasNothingToReportFails(t *testing.T) {
	s := newServer(t, offer(cdn, 0), `{"code":603}`)
	require.ErrorIs(t, newPeer(t, s, Config{}, newDeps()).Download(t.Context()), errStuck)
}

func TestAnswersOnWhichDfgetLeavesAreErrors(t *testing.T) {
	for want, answer := range map[string]string{
		"610": `{"code":610}`, "has 3 of 4": offer(cdn, 0, 1, 2), "4 pieces": offer(cdn, 4), "expected JSON": `<html>`,
	} {
		s := newServer(t, answer, finished)
		require.ErrorContains(t, newPeer(t, s, Config{}, newDeps()).Download(t.Context()), want)
		require.Equal(t, []string{"/task/metrics false true"}, s.made("/task"))
	}
}

func TestPeerThatLiesReportsWhatItDoesNotHave(t *testing.T) {
	honest := map[string]bool{"0-999": true}
	lies := 0
	for seed := range uint64(50) {
		s := newServer(t, offer(cdn, 0), finished)
		require.NoError(t, newPeer(t, s, Config{Lies: true, Seed: seed}, newDeps()).Download(t.Context()))
		for _, call := range append(s.made("/peer/task 701"), s.made("/peer/piece/suc")...) {
			for _, field := range strings.Fields(call) {
				if strings.Contains(field, "-") && !honest[field] {
					lies++
				}
			}
		}
		s.Close()
	}
	require.Positive(t, lies)
}
