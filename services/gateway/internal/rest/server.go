package rest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"go.uber.org/zap"
)

const (
	// headLimit is how long the head of a request may take to arrive.
	headLimit = 10 * time.Second
	// bodyLimit is the same for head and body. It also ends the context of a
	// request, so it is well above what a call may take.
	bodyLimit = 20 * time.Second
	// idleLimit is how long a connection is kept without a request; clients
	// and load balancers keep theirs for up to 90 s.
	idleLimit = 120 * time.Second
	// maxHead in bytes leaves room for queries of 64 KiB.
	maxHead = 128 << 10
	// hardStop is what requests get after they have been told to end.
	hardStop = time.Second
)

// Server serves a Handler until it is told to stop.
type Server struct {
	handler http.Handler
	log     *zap.Logger
	budget  time.Duration
	release func()
}

// NewServer makes a server. budget is how long a call may take; release is
// called when the server stops, and makes calls that wait answer.
func NewServer(handler http.Handler, log *zap.Logger, budget time.Duration, release func()) *Server {
	return &Server{handler: handler, log: log, budget: budget, release: release}
}

// Run serves l until ctx ends, then answers what is under way, for at most the
// budget and two seconds; a client that has not sent all of its request by then
// is cut off, which is no error. It returns the first error.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	log, err := zap.NewStdLogAt(s.log, zap.DebugLevel) // what clients do wrong on a connection
	if err != nil {
		return fmt.Errorf("making the log of connections: %w", err)
	}
	base, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: headLimit,
		ReadTimeout:       bodyLimit,
		WriteTimeout:      bodyLimit + s.budget,
		IdleTimeout:       idleLimit,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          log,
		BaseContext:       func(net.Listener) context.Context { return base },
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		s.release()
		cut()
		_ = s.stop(server, hardStop)
		return fmt.Errorf("serving REST on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	// Every answer from here on says that it is the connection's last, so that no
	// client sends the next request on one that is just being closed.
	server.SetKeepAlivesEnabled(false)
	s.release()
	if err = s.stop(server, s.budget+hardStop); err != nil {
		cut()
		err = s.stop(server, hardStop)
	}
	if err != nil {
		s.log.Warn("cutting off requests that did not end in time", zap.Error(err))
		_ = server.Close() // closed they are
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		return fmt.Errorf("serving REST on %s: %w", l.Addr(), served)
	}
	return nil
}

// stop waits for the requests under way, for no longer than limit.
func (s *Server) stop(server *http.Server, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return server.Shutdown(ctx)
}
