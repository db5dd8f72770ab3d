package peer_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
)

const (
	taskID     = "cd71c34dd87c301ae592859bc137bada697da48f11dd1f9b4f5f9d1690c5ce85"
	cdnCid     = "cdnnode:127.0.0.5~" + taskID
	cdnPath    = "/download/cd7/" + taskID
	pieceSize  = int32(1000)
	deadlocked = 20 * time.Second
)

// request is one call that a node got.
type request struct {
	method, path, query, body, contentType, userAgent string
}

func (r request) get(name string) string {
	values, _ := url.ParseQuery(r.query)
	return values.Get(name)
}

// node answers as the test tells it to, and remembers what it was asked.
type node struct {
	*httptest.Server
	// pull answers the n-th pull, from 1. The other calls have good answers.
	pull     func(n int, r request) string
	register func(n int, r request) (int, string)
	metrics  string

	mu      sync.Mutex // guards what follows
	seen    []request
	changed chan struct{}
}

func newNode(t *testing.T) *node {
	n := &node{changed: make(chan struct{}), metrics: `{"code":1}`}
	n.Server = httptest.NewServer(http.HandlerFunc(n.serve))
	t.Cleanup(n.Close)
	return n
}

func (n *node) addr() string { return n.Listener.Addr().String() }

func (n *node) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	got := request{r.Method, r.URL.Path, r.URL.RawQuery, string(body), r.Header.Get("Content-Type"), r.UserAgent()}
	n.mu.Lock()
	n.seen = append(n.seen, got)
	count := 0
	for _, s := range n.seen {
		if s.path == got.path {
			count++
		}
	}
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	status, text := n.answer(count, got)
	w.WriteHeader(status)
	_, _ = io.WriteString(w, text)
}

func (n *node) answer(count int, r request) (int, string) {
	switch r.path {
	case "/peer/registry":
		if n.register != nil {
			return n.register(count, r)
		}
		return 200, registered(-1)
	case "/peer/task":
		text := n.pull(count, r)
		if status, err := strconv.Atoi(text); err == nil {
			return status, "broken"
		}
		return 200, text
	case "/peer/piece/suc":
		return 200, `{"code":611}`
	case "/peer/piece/error":
		return 200, `{"code":200}`
	case "/peer/service/down":
		return 200, `{"code":612}`
	case "/task/metrics":
		return 200, n.metrics
	}
	return 404, ""
}

// calls gives what was asked of a path, or of all for "".
func (n *node) calls(path string) []request {
	n.mu.Lock()
	defer n.mu.Unlock()
	var calls []request
	for _, r := range n.seen {
		if path == "" || r.path == path {
			calls = append(calls, r)
		}
	}
	return calls
}

// await returns when a call has come for which holds is true.
func (n *node) await(holds func(request) bool) {
	timeout := time.After(deadlocked)
	for {
		n.mu.Lock()
		changed := n.changed
		for _, r := range n.seen {
			if holds(r) {
				n.mu.Unlock()
				return
			}
		}
		n.mu.Unlock()
		select {
		case <-changed:
		case <-timeout:
			return // the test fails by what is missing
		}
	}
}

func (n *node) awaitReport(num int) {
	n.await(func(r request) bool {
		return r.path == "/peer/piece/suc" && r.get("pieceRange") == piece.Range(int32(num), pieceSize)
	})
}

func registered(length int64) string {
	return fmt.Sprintf(`{"code":200,"msg":"success","data":{"taskId":%q,"fileLength":%d,"pieceSize":%d,"cdnSource":"supernode","asSeed":false,"seedTaskID":""}}`,
		taskID, length, pieceSize)
}

const wait = `{"code":602,"msg":"peer should wait"}`

func done(sum string) string {
	return fmt.Sprintf(`{"code":600,"data":{"fileLength":1,"md5":%q}}`, sum)
}

// offers tells to get the pieces from addr, where path and cid are.
func (c *cdn) offers(cid, addr, path string, nums ...int) string {
	host, portText, _ := net.SplitHostPort(addr)
	port, _ := strconv.Atoi(portText)
	var data []map[string]any
	for _, num := range nums {
		wrapped := c.pieces[num]
		sum := md5.Sum(wrapped)
		data = append(data, map[string]any{
			"range": piece.Range(int32(num), c.size), "pieceNum": num, "pieceSize": c.size,
			"pieceMd5": piece.Digest(hex.EncodeToString(sum[:]), int32(len(wrapped))),
			"cid":      cid, "peerIp": host, "peerPort": port, "path": path, "downLink": 0,
		})
	}
	text, _ := json.Marshal(map[string]any{"code": 601, "data": data})
	return string(text)
}

func (c *cdn) offer(nums ...int) string { return c.offers(cdnCid, c.addr(), cdnPath, nums...) }

// cdn serves wrapped pieces; one that is gated waits for open.
type cdn struct {
	*httptest.Server
	size    int32
	content []byte
	pieces  [][]byte
	gates   map[int]chan struct{}

	mu       sync.Mutex // guards requests and the closing of gates
	requests []http.Header
}

func newCDN(t *testing.T, length int64, size int32, gated ...int) *cdn {
	c := &cdn{size: size, content: origin.Content(length, uint64(length)), gates: make(map[int]chan struct{})}
	for num := range int(piece.Count(length, size)) {
		step := int(size) - piece.WrapLength
		part := c.content[num*step : min((num+1)*step, len(c.content))]
		head := make([]byte, piece.HeadLength)
		piece.PutHead(head, len(part), size)
		c.pieces = append(c.pieces, append(append(head, part...), piece.Tail))
	}
	for _, num := range gated {
		c.gates[num] = make(chan struct{})
	}
	c.Server = httptest.NewServer(http.HandlerFunc(c.serve))
	t.Cleanup(c.Close)
	return c
}

func (c *cdn) addr() string { return c.Listener.Addr().String() }

func (c *cdn) sum() string {
	sum := md5.Sum(c.content)
	return hex.EncodeToString(sum[:])
}

// headers gives those of every request for a piece.
func (c *cdn) headers() []http.Header {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// open lets a gated piece out; again is no error.
func (c *cdn) open(num int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case <-c.gates[num]:
	default:
		close(c.gates[num])
	}
}

func (c *cdn) serve(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.requests = append(c.requests, r.Header.Clone())
	c.mu.Unlock()
	num, _ := strconv.Atoi(r.Header.Get("pieceNum"))
	if gate, ok := c.gates[num]; ok {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(c.pieces[num])
}

// newPeer makes a peer of the nodes, in that order, that never goes to the
// source.
func newPeer(t *testing.T, change func(*peer.Config), nodes ...string) *peer.Peer {
	t.Helper()
	cfg := peer.Config{
		Nodes: nodes, KeepOrder: true, IP: "127.0.0.1", Dir: t.TempDir(),
		URL: "http://127.0.0.9:9000/f9.bin", NoBackSource: true,
	}
	if change != nil {
		change(&cfg)
	}
	p, err := peer.New(cfg)
	require.NoError(t, err)
	t.Cleanup(p.Close)
	return p
}

func download(t *testing.T, p *peer.Peer) (peer.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadlocked)
	defer cancel()
	return p.Download(ctx)
}

func requireContent(t *testing.T, c *cdn, r peer.Result) {
	t.Helper()
	require.EqualValues(t, len(c.content), r.Length)
	require.Equal(t, c.sum(), r.MD5)
	require.True(t, bytes.Equal(c.content, readFile(t, r.Path)))
}
