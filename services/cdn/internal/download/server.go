// Package download serves pieces to peers over HTTP, at the path of Dragonfly v1. It
// sends byte ranges of content files and does not look into them. Its caller decides
// which tasks and which pieces can be served.
//
// The states of a server:
//
//	New --Serve--> serving --ctx ends--> draining --no request for idlePeriod--> finishing --> stopped
//
// A draining server accepts requests, because some peers are not informed of the stop
// yet. A finishing server accepts none and completes its transfers. Both states
// together last for the drain time at most; after that the server closes all
// connections.
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
	maxHeader     = 16 << 10 // bytes

	// A peer has to receive minRate bytes per second, with extraTime in addition
	// for each chunk. Every chunk has its own deadline, so that a peer that has
	// stopped receiving is detected long before the deadline of a long transfer.
	minRate   = 64 << 10
	extraTime = 15 * time.Second
	chunk     = 4 << 20 // bytes
)

// Tasks finds the tasks to serve.
type Tasks interface {
	// Find returns a task that has pieces to serve, or nil.
	Find(id task.ID) *engine.Task
	// Lost is called for a task whose content file does not exist any more.
	Lost(t *engine.Task)
}

// Server serves content files.
type Server struct {
	log     *zap.Logger
	tasks   Tasks
	drain   time.Duration
	pace    pace
	metrics metrics
	last    lastRequest

	sent, ended atomic.Int64 // see Sent
}

// New returns a server. drain limits the time from the end of Serve's context to the
// end of the last transfer. All transfers together send at most bandwidth bytes per
// second; 0 is no limit.
func New(log *zap.Logger, tasks Tasks, drain time.Duration, bandwidth int64) *Server {
	return &Server{log: log, tasks: tasks, drain: drain, pace: newPace(bandwidth), metrics: newMetrics()}
}

// Sent returns the numbers of bytes sent and of transfers ended since the start. A
// transfer that failed counts as ended.
func (s *Server) Sent() (bytes, ended int64) { return s.sent.Load(), s.ended.Load() }

// Collectors returns the metrics, for registration.
func (s *Server) Collectors() []prometheus.Collector { return s.metrics.collectors() }

// Serve serves the listener until ctx ends, and then stops as the package comment
// describes. It closes the listener.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	connectionLog, err := zap.NewStdLogAt(s.log, zap.DebugLevel) // peers close connections all the time
	if err != nil {
		return fmt.Errorf("creating the log of downloads: %w", err)
	}
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          connectionLog,
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
	s.last.waitIdle(drain)
	if err := server.Shutdown(drain); err != nil {
		s.log.Warn("downloads did not end within the drain time; closing their connections", zap.Duration("drain_time", s.drain), zap.Error(err))
		_ = server.Close() // an error leaves nothing to do
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving downloads: %w", err)
	}
	return nil
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.last.record()
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
	// The file is opened before the pieces of the task are looked up. Otherwise it
	// could be a newer file that lacks pieces which the older one had.
	reader, err := t.Open()
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			s.tasks.Lost(t)
		} else {
			s.log.Error("cannot open a content file to serve; answering 404", zap.String("task_id", string(id)), zap.Error(err))
		}
		refuse(w, r, http.StatusNotFound)
		return
	}
	defer func() { _ = reader.Close() }() // only read from
	s.serve(w, r, t, reader.File)
}

// serve sends the requested part of the file.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, t *engine.Task, file *os.File) {
	total, complete := t.Total()
	totalText := "*"
	if total >= 0 {
		totalText = strconv.FormatInt(total, 10)
	}
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Content-Type", "application/octet-stream")
	header := r.Header.Get("Range")
	if header == "" {
		if !complete {
			refuse(w, r, http.StatusNotFound)
			return
		}
		s.send(w, r, file, http.StatusOK, 0, total)
		return
	}
	first, last, err := parseRange(header)
	if err == nil && last == toEnd && !complete {
		err = errRange // the end of the file is missing
	}
	end, available := int64(0), false
	if err == nil {
		end, available = t.Extent(first, last)
	}
	if !available {
		w.Header().Set("Content-Range", "bytes */"+totalText)
		refuse(w, r, http.StatusRequestedRangeNotSatisfiable)
		return
	}
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%s", first, end, totalText))
	if s.send(w, r, file, http.StatusPartialContent, first, end-first+1) {
		s.metrics.pieces.Inc()
	}
}

// send sends length bytes of the file, and reports whether all of them were sent. It
// does not wrap the file or the connection, so that the kernel copies the bytes.
func (s *Server) send(w http.ResponseWriter, r *http.Request, file *os.File, status int, first, length int64) bool {
	if _, err := file.Seek(first, io.SeekStart); err != nil {
		s.log.Error("cannot seek in a content file to serve; answering 500", zap.Error(err))
		refuse(w, r, http.StatusInternalServerError)
		return false
	}
	w.Header().Set("Content-Length", strconv.FormatInt(length, 10))
	control := http.NewResponseController(w)
	deadline := func(n int64) error {
		return control.SetWriteDeadline(time.Now().Add(extraTime + time.Duration(n)*time.Second/minRate))
	}
	if err := deadline(chunk); err != nil {
		s.log.Error("cannot set the deadline of a transfer; sending without it", zap.Error(err))
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
		s.log.Debug("a transfer ended early", zap.Int64("missing_bytes", missing), zap.Error(err))
	}
	return err == nil
}

// refuse answers with a status and without content.
func refuse(w http.ResponseWriter, r *http.Request, status int) {
	if r.ContentLength != 0 {
		// The server does not wait for the body of the request.
		w.Header().Set("Connection", "close")
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(time.Second)) // best effort
	}
	http.Error(w, http.StatusText(status), status)
}
