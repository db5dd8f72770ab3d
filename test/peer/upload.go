package peer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/supernode-ha/supernode/pkg/piece"
)

const (
	uploadPrefix  = "/peer/file/"
	lowestPort    = 15000
	highestPort   = 65000
	portAttempts  = 200
	lastUploads   = time.Minute
	octets        = "application/octet-stream"
	errorRange    = "range not satisfiable"
	headerTimeout = time.Minute
)

var (
	errUnsatisfiable = errors.New(errorRange)
	errUnknownFile   = errors.New("no such task file")
)

// uploads is the peer's server: it gives pieces of the one file that the peer
// has, or is about to have, to other peers.
type uploads struct {
	p      *Peer
	server *http.Server
	port   int
	serve  sync.WaitGroup

	mu       sync.Mutex // guards closed and the growth of handlers
	closed   bool
	handlers sync.WaitGroup

	pieces atomic.Int64
	bytes  atomic.Int64
}

// startUploads listens on a free port of the range that the cluster accepts.
func startUploads(p *Peer) (*uploads, error) {
	var listener net.Listener
	var err error
	for range portAttempts {
		port := lowestPort + rand.IntN(highestPort-lowestPort+1)
		if listener, err = net.Listen("tcp4", net.JoinHostPort(p.ip, strconv.Itoa(port))); err == nil {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("finding a port for uploads: %w", err)
	}
	u := &uploads{p: p, port: listener.Addr().(*net.TCPAddr).Port}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+uploadPrefix, u.handle)
	mux.HandleFunc("GET /server/ping", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", octets)
		_, _ = io.WriteString(w, "success")
	})
	u.server = &http.Server{
		Handler: mux, ReadHeaderTimeout: headerTimeout,
		ErrorLog: log.New(io.Discard, "", 0), // peers that leave are no news
	}
	u.serve.Go(func() { _ = u.server.Serve(listener) }) // ends with ErrServerClosed
	return u, nil
}

// kill stops serving at once and does not wait.
func (u *uploads) kill() {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	_ = u.server.Close()
}

// leave serves what has begun to its end, for a minute at most.
func (u *uploads) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lastUploads)
	defer cancel()
	if u.server.Shutdown(ctx) != nil {
		u.kill()
	}
}

func (u *uploads) wait() {
	u.serve.Wait()
	u.handlers.Wait()
}

func (u *uploads) enter() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return false
	}
	u.handlers.Add(1)
	return true
}

func (u *uploads) handle(w http.ResponseWriter, r *http.Request) {
	if !u.enter() {
		http.Error(w, "leaving", http.StatusServiceUnavailable)
		return
	}
	defer u.handlers.Done()
	status, sent := u.answer(w, r)
	u.bytes.Add(sent)
	if status == http.StatusPartialContent {
		u.pieces.Add(1)
	}
	u.p.rec.tell(Event{Kind: Served, Range: r.Header.Get("Range"), Code: status, Bytes: sent})
}

func (u *uploads) answer(w http.ResponseWriter, r *http.Request) (status int, sent int64) {
	fail := func(status int, err error) (int, int64) {
		http.Error(w, err.Error(), status)
		return status, 0
	}
	up, err := parseUpload(r.Header)
	if err != nil {
		return fail(http.StatusBadRequest, err)
	}
	if u.p.cfg.Faults.RefuseServed {
		return fail(http.StatusNotFound, fs.ErrNotExist)
	}
	file, size, err := u.open(strings.TrimPrefix(r.URL.Path, uploadPrefix))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(http.StatusNotFound, err)
	case err != nil:
		return fail(http.StatusInternalServerError, err)
	}
	defer file.Close() //nolint:errcheck // only read
	if err := up.amend(size); err != nil {
		return fail(http.StatusRequestedRangeNotSatisfiable, err)
	}
	return http.StatusPartialContent, u.send(r.Context(), w, file, up)
}

// open finds the file by the name that the peer registered; that of any other
// task is an error of the server, as it is dfget's.
func (u *uploads) open(name string) (*os.File, int64, error) {
	if name != u.p.name {
		return nil, 0, errUnknownFile
	}
	file, err := os.Open(u.p.path)
	if err != nil {
		return nil, 0, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, file.Close())
	}
	return file, info.Size(), nil
}

// upload is a piece that was asked for: where its content starts in the plain
// file, how much is sent in all, and how much of that is wrapping.
type upload struct {
	start, length, wrap int64
	num, size           int64
}

func parseUpload(h http.Header) (*upload, error) {
	up := &upload{wrap: piece.WrapLength}
	if h.Get("cdnSource") == sourceCDN {
		up.wrap = 0
	}
	unit, text, _ := strings.Cut(h.Get("Range"), "=")
	firstText, lastText, dashed := strings.Cut(text, "-")
	num, err1 := strconv.ParseInt(h.Get("pieceNum"), 10, 64)
	size, err2 := strconv.ParseInt(h.Get("pieceSize"), 10, 64)
	first, err3 := strconv.ParseInt(firstText, 10, 64)
	last, err4 := strconv.ParseInt(lastText, 10, 64)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		return nil, fmt.Errorf("reading the piece asked for: %w", err)
	}
	if unit == "" || !dashed || last <= first {
		return nil, fmt.Errorf("invalid range: %.64q", h.Get("Range"))
	}
	up.num, up.size, up.start, up.length = num, size, first, last-first+1
	return up, nil
}

// amend turns the range in wrapped pieces into one in the plain file, and cuts
// it off where the file ends now. A piece that lies behind the end becomes an
// empty one with a wrong head, and one that others have overtaken is zeros:
// dfget serves what is in the file, and leaves it to the MD5 to tell.
func (up *upload) amend(size int64) error {
	up.start -= up.num * up.wrap
	if up.length < up.wrap || up.start < 0 || (up.start >= size && up.wrap == 0) {
		return errUnsatisfiable
	}
	if up.start+up.length-up.wrap > size {
		up.length = size - up.start + up.wrap
		if size == 0 {
			up.length = up.wrap
		}
	}
	return nil
}

func (u *uploads) send(ctx context.Context, w http.ResponseWriter, file *os.File, up *upload) int64 {
	w.Header().Set("Content-Type", octets)
	if up.length >= 0 {
		w.Header().Set("Content-Length", strconv.FormatInt(up.length, 10))
	}
	w.WriteHeader(http.StatusPartialContent)
	faults := &u.p.cfg.Faults
	content := up.length - up.wrap
	out := &uploadWriter{w: w, ctx: ctx}
	if faults.ServeRate > 0 {
		out.limiter = rate.NewLimiter(rate.Limit(faults.ServeRate), max(int(faults.ServeRate/20), 1))
	}
	if faults.CorruptServed {
		out.corruptAt = piece.HeadLength // the first of the content, or the tail
	}
	if up.wrap > 0 {
		var head [piece.HeadLength]byte
		piece.PutHead(head[:], int(content), int32(up.size))
		_, _ = out.Write(head[:])
	}
	_, _ = io.Copy(out, io.NewSectionReader(file, up.start, max(content, 0)))
	if up.wrap > 0 {
		_, _ = out.Write([]byte{piece.Tail})
	}
	return out.sent
}

// uploadWriter counts, slows down and corrupts. After an error it writes
// nothing any more.
type uploadWriter struct {
	w         io.Writer
	ctx       context.Context
	limiter   *rate.Limiter
	corruptAt int64 // 0 for nowhere
	sent      int64
	err       error
}

func (o *uploadWriter) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) && o.err == nil {
		step := p[written:]
		if o.limiter != nil {
			step = step[:min(len(step), o.limiter.Burst())]
			if o.err = o.limiter.WaitN(o.ctx, len(step)); o.err != nil {
				break
			}
		}
		if at := o.corruptAt - o.sent; o.corruptAt > 0 && at >= 0 && at < int64(len(step)) {
			changed := append([]byte(nil), step...)
			changed[at] ^= 0xff
			step = changed
		}
		var n int
		n, o.err = o.w.Write(step)
		o.sent += int64(n)
		written += n
	}
	return written, o.err
}
