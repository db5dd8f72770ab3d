package cdn_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
)

// origin is a source that records its requests. Its handler may misbehave.
type origin struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request // guarded by mu
	handler  http.HandlerFunc
}

// serveOrigin starts a source; handler may be replaced between requests.
func serveOrigin(t testing.TB, handler http.HandlerFunc) *origin {
	t.Helper()
	o := &origin{handler: handler}
	o.Server = httptest.NewServer(o)
	t.Cleanup(o.Close)
	return o
}

func (o *origin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o.mu.Lock()
	o.requests = append(o.requests, r)
	handler := o.handler
	o.mu.Unlock()
	handler(w, r)
}

func (o *origin) set(handler http.HandlerFunc) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.handler = handler
}

func (o *origin) seen() []*http.Request {
	o.mu.Lock()
	defer o.mu.Unlock()
	return append([]*http.Request(nil), o.requests...)
}

func (o *origin) source() *cdnv1.Source { return &cdnv1.Source{Url: o.URL + "/file"} }

var modified = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// file serves content with an ETag, conditions and ranges.
func file(content []byte, etag string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if etag != "" {
			w.Header().Set("ETag", etag)
		}
		http.ServeContent(w, r, "file.bin", modified, bytes.NewReader(content))
	}
}

// plainFile serves content with its length and nothing else.
func plainFile(content []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content)
	}
}

// cutAfter announces the length of content and breaks the connection after sent bytes.
func cutAfter(content []byte, sent int, header http.Header) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		for name, values := range header {
			w.Header()[name] = values
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		_, _ = w.Write(content[:sent])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// gate sends the first bytes of content, and the rest when it is opened.
type gate struct {
	content []byte
	first   int
	opened  chan struct{}
	once    sync.Once
}

func newGate(t testing.TB, content []byte, first int) *gate {
	g := &gate{content: content, first: first, opened: make(chan struct{})}
	t.Cleanup(g.open)
	return g
}

func (g *gate) open() { g.once.Do(func() { close(g.opened) }) }

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Length", strconv.Itoa(len(g.content)))
	_, _ = w.Write(g.content[:g.first])
	_ = http.NewResponseController(w).Flush()
	select {
	case <-g.opened:
		_, _ = w.Write(g.content[g.first:])
	case <-r.Context().Done():
	}
}

// withValidators adds validators to an answer, so that the download can be resumed.
func withValidators(h http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		w.Header().Set("Last-Modified", modified.Format(http.TimeFormat))
		w.Header().Set("Accept-Ranges", "bytes")
		h.ServeHTTP(w, r)
	}
}
