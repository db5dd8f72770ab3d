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
	// headLimit is how long the head of a request may take to arrive. It limits
	// clients that send slowly.
	headLimit = 10 * time.Second
	// bodyLimit is how long head and body may take to arrive. It also ends the
	// context of a request, so it is well above the call budget.
	bodyLimit = 20 * time.Second
	// idleLimit is how long a connection without a request is kept. Clients and
	// load balancers close theirs after up to 90 s. The server waits longer, so
	// that it does not close a connection on which a request is being sent.
	idleLimit = 120 * time.Second
	// maxHead limits the head of a request, in bytes. It leaves room for a query of
	// 64 KiB.
	maxHead = 128 << 10
	// hardStop is how long a stop waits beyond the budget before it cancels the
	// contexts of the requests, and once more before it closes their connections.
	hardStop = time.Second
)

// Server serves a handler over HTTP and stops gracefully.
type Server struct {
	handler http.Handler
	log     *zap.Logger
	budget  time.Duration
	release func()
}

// NewServer creates a server. budget is how long a call may take. The server calls
// release when it stops; release must make held calls return.
func NewServer(handler http.Handler, log *zap.Logger, budget time.Duration, release func()) *Server {
	return &Server{handler: handler, log: log, budget: budget, release: release}
}

// Run serves l until ctx ends. Then it waits for the running requests, for at most
// the budget and two seconds, and closes the connections of those that have not
// ended, such as a client that has sent only half of its request. That is not an
// error. Run returns the first error.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	log, err := zap.NewStdLogAt(s.log, zap.DebugLevel) // net/http logs the protocol errors of clients
	if err != nil {
		return fmt.Errorf("creating the connection log: %w", err)
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
	// From here on every answer has "Connection: close", so that no client sends
	// its next request on a connection that is being closed.
	server.SetKeepAlivesEnabled(false)
	s.release()
	if err = s.stop(server, s.budget+hardStop); err != nil {
		cut()
		err = s.stop(server, hardStop)
	}
	if err != nil {
		s.log.Warn("requests did not end before the stop deadline; closing their connections", zap.Error(err))
		_ = server.Close() // the connections are closed even if it returns an error
	}
	if served := <-ended; !errors.Is(served, http.ErrServerClosed) {
		return fmt.Errorf("serving REST on %s: %w", l.Addr(), served)
	}
	return nil
}

// stop waits until no request is running, for at most limit.
func (s *Server) stop(server *http.Server, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return server.Shutdown(ctx)
}
