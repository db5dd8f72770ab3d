// Package rpctest runs gRPC servers in tests, on real sockets. What they serve
// belongs to the tests.
package rpctest

import (
	"context"
	"net"
	"sync"
	"testing"

	"google.golang.org/grpc"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// Serve runs a server on a port of its own until the test ends, or stop is
// called, which ends all calls at once. Errors reach callers as those of a
// service do.
func Serve(t testing.TB, register func(*grpc.Server)) (endpoint string, stop func()) {
	t.Helper()
	return ServeAt(t, "127.0.0.1:0", register)
}

// ServeAt is Serve at an address.
func ServeAt(t testing.TB, address string, register func(*grpc.Server)) (endpoint string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatalf("listening at %s: %v", address, err)
	}
	server := grpc.NewServer(
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			return resp, rpcerr.Status(err).Err()
		}),
		grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			return rpcerr.Status(next(srv, s)).Err()
		}))
	register(server)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(l) // ends when it is stopped
	}()
	stop = sync.OnceFunc(func() {
		server.Stop()
		<-served
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}
