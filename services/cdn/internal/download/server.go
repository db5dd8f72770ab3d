// Package download is the HTTP server that peers fetch pieces from, at the
// path that Dragonfly v1 gave them. It sends bytes that are on disk and sends
// them as they are: it knows pieces only as ranges, and nothing of tasks but
// what of them is here.
package download

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/cdn/internal/engine"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	headerTimeout = 10 * time.Second
	idleTimeout   = 2 * time.Minute
	mostHeader    = 16 << 10

	// A peer may be as slow as slowest bytes a second, with some patience on
	// top. Every chunk has its own deadline, so that one that has stopped is
	// noticed before its whole transfer would have been over.
	slowest  = 64 << 10
	patience = 15 * time.Second
	chunk    = 4 << 20
)

// Tasks are where tasks are found.
type Tasks interface {
	// Find gives what can be served of a task, or nil.
	Find(id task.ID) *engine.Task
	// Lost is told of a task whose file is not there any more.
	Lost(t *engine.Task)
}

// Server serves wrapped files.
type Server struct {
	log     *zap.Logger
	tasks   Tasks
	drain   time.Duration
	pace    pace
	metrics metrics
	visits  visits

	sent, ended atomic.Int64
}

// New makes a Server; at its end, transfers may go on for drain. All transfers
// together send at most bandwidth bytes per second; 0 is no limit.
func New(log *zap.Logger, tasks Tasks, drain time.Duration, bandwidth int64) *Server {
	return &Server{log: log, tasks: tasks, drain: drain, pace: newPace(bandwidth), metrics: newMetrics()}
}

// Sent returns the number of bytes sent, and of transfers ended, since the start.
func (s *Server) Sent() (bytes, ended int64) { return s.sent.Load(), s.ended.Load() }

// Collectors are the metrics, to be registered.
func (s *Server) Collectors() []prometheus.Collector { return s.metrics.collectors() }

// Serve serves the listener until ctx ends, then goes on for as long as peers
// that do not know yet still ask, but not beyond the time it has for the drain,
// finishes what it is sending, and closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	peers, err := zap.NewStdLogAt(s.log, zap.DebugLevel) // those that vanish are no news
	if err != nil {
		return fmt.Errorf("making the log of downloads: %w", err)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    mostHeader,
		ErrorLog:          peers,
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return errors.Join(fmt.Errorf("serving downloads: %w", err), server.Close())
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	s.visits.linger(drain)
	if err := server.Shutdown(drain); err != nil {
		s.log.Warn("cutting off downloads that did not end in time", zap.Error(err))
		_ = server.Close() // closed they are
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving downloads: %w", err)
	}
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.visits.note()
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, r, http.StatusMethodNotAllowed)
		return
	}
	if r.ContentLength != 0 {
		refuse(w, r, http.StatusBadRequest)
		return
	}
	id, ok := parsePath(r.URL.Path)
	if !ok {
		refuse(w, r, http.StatusNotFound)
		return
	}
	t := s.tasks.Find(id)
	if t == nil {
		refuse(w, r, http.StatusNotFound)
		return
	}
	// The file is opened before it is looked up what of it is here: it cannot
	// then be a newer one that has holes where the old one had pieces.
	reader, err := t.Open()
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			s.tasks.Lost(t)
		} else {
			s.log.Error("opening a file to serve", zap.String("task_id", string(id)), zap.Error(err))
		}
		refuse(w, r, http.StatusNotFound)
		return
	}
	defer func() { _ = reader.Close() }() // only read from
	s.serve(w, r, t, reader.File)
}

// serve sends the part of the file that was asked for.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, t *engine.Task, file *os.File) {
	total, whole := t.Total()
	totalText := "*"
	if total >= 0 {
		totalText = strconv.FormatInt(total, 10)
	}
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Type", "application/octet-stream")
	header := r.Header.Get("Range")
	if header == "" {
		if !whole {
			refuse(w, r, http.StatusNotFound)
			return
		}
		s.send(w, r, file, http.StatusOK, 0, total)
		return
	}
	first, last, err := parseRange(header)
	if err == nil && last == toEnd && !whole {
		err = errRange // its end is not here
	}
	end, here := int64(0), false
	if err == nil {
		end, here = t.Extent(first, last)
	}
	if !here {
		w.Header().Set("Content-Range", "bytes */"+totalText)
		refuse(w, r, http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", first, end, totalText))
	if s.send(w, r, file, http.StatusPartialContent, first, end-first+1) {
		s.metrics.pieces.Inc()
	}
}

// send answers with length bytes of the file, and tells whether all went out.
// Nothing stands between file and connection, so that the kernel copies.
func (s *Server) send(w http.ResponseWriter, r *http.Request, file *os.File, status int, first, length int64) bool {
	if _, err := file.Seek(first, io.SeekStart); err != nil {
		s.log.Error("reading a file to serve", zap.Error(err))
		refuse(w, r, http.StatusInternalServerError)
		return false
	}
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	control := http.NewResponseController(w)
	deadline := func(n int64) error {
		return control.SetWriteDeadline(time.Now().Add(patience + time.Duration(n)*time.Second/slowest))
	}
	if err := deadline(chunk); err != nil {
		s.log.Error("limiting the time of a transfer", zap.Error(err))
	}
	w.WriteHeader(status)
	if r.Method == http.MethodHead {
		return false
	}
	defer s.ended.Add(1)
	count := func(n int64) {
		s.sent.Add(n)
		s.metrics.bytes.Add(float64(n))
	}
	missing, err := s.pace.copy(r.Context(), w, file, length, deadline, count)
	if err != nil {
		s.log.Debug("a transfer ended early", zap.Int64("missing", missing), zap.Error(err))
	}
	return err == nil
}

// refuse answers without content.
func refuse(w http.ResponseWriter, r *http.Request, status int) {
	if r.ContentLength != 0 {
		// What is still to come of the request is not worth waiting for.
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second)) // best effort
	}
	http.Error(w, http.StatusText(status), status)
}
