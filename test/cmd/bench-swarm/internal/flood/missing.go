package flood

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Missing is a source on loopback that has no file: it answers 404 to every
// request, and counts them.
type Missing struct {
	// Prefix is the beginning of its URLs.
	Prefix string

	requests atomic.Int64
	server   *http.Server
	serving  sync.WaitGroup
	end      error // of serving
}

// StartMissing listens and serves until Close is called.
func StartMissing() (*Missing, error) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listening for the source without files: %w", err)
	}
	m := &Missing{Prefix: "http://" + listener.Addr().String() + "/missing/"}
	m.server = &http.Server{
		ReadHeaderTimeout: time.Minute,
		ErrorLog:          log.New(io.Discard, "", 0), // how connections end does not matter here
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			m.requests.Add(1)
			w.WriteHeader(http.StatusNotFound)
		}),
	}
	m.serving.Go(func() { m.end = m.server.Serve(listener) })
	return m, nil
}

// Requests returns the number of requests so far.
func (m *Missing) Requests() int64 { return m.requests.Load() }

// Close ends the source.
func (m *Missing) Close() error {
	err := m.server.Close()
	m.serving.Wait()
	if !errors.Is(m.end, http.ErrServerClosed) {
		err = errors.Join(err, m.end)
	}
	if err != nil {
		return fmt.Errorf("ending the source without files: %w", err)
	}
	return nil
}
