// Package rpcserver builds the one gRPC server that every process has: errors
// turned into statuses in one place, panics caught, calls counted, health and
// reflection on every port, and a way to reach the same services from inside
// the process. What the services do belongs to them.
package rpcserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/grpc-ecosystem/go-grpc-middleware/v2/interceptors/recovery"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// stopGrace is how long calls under way may go on after a stop.
const stopGrace = 2 * time.Second

// Server is a gRPC server and the way to it from inside the process. Register
// services on it, then Run it.
type Server struct {
	log    *zap.Logger
	grpc   *grpc.Server
	health *health.Server
	local  *local
}

// New makes a server without services. Its metrics go to reg.
func New(log *zap.Logger, reg prometheus.Registerer) (*Server, error) {
	metrics := grpcprom.NewServerMetrics()
	if err := reg.Register(metrics); err != nil {
		return nil, fmt.Errorf("registering the metrics of the rpc server: %w", err)
	}
	s := &Server{log: log, health: health.NewServer()}
	catch := recovery.WithRecoveryHandlerContext(s.recovered)
	unary := chain(metrics.UnaryServerInterceptor(), s.unaryErrors, recovery.UnaryServerInterceptor(catch))
	s.grpc = grpc.NewServer(
		grpc.UnaryInterceptor(unary),
		grpc.ChainStreamInterceptor(metrics.StreamServerInterceptor(), s.streamErrors, recovery.StreamServerInterceptor(catch)),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
	)
	var err error
	if s.local, err = newLocal(unary); err != nil {
		return nil, err
	}
	s.register(&healthv1.Health_ServiceDesc, s.health)
	reflection.Register(s.grpc)
	return s, nil
}

// RegisterService adds a service; it must happen before Run.
func (s *Server) RegisterService(desc *grpc.ServiceDesc, impl any) {
	s.register(desc, impl)
	s.health.SetServingStatus(desc.ServiceName, healthv1.HealthCheckResponse_SERVING)
}

func (s *Server) register(desc *grpc.ServiceDesc, impl any) {
	s.grpc.RegisterService(desc, impl)
	s.local.register(desc, impl)
}

// Local reaches the services of this server without a socket.
func (s *Server) Local() grpc.ClientConnInterface { return s.local }

// Run serves on the listener, and Local's calls, until ctx ends. Then it
// reports NOT_SERVING, lets calls under way end for a short while, and returns.
func (s *Server) Run(ctx context.Context, listener net.Listener) error {
	failed := make(chan error, 2)
	for _, l := range []net.Listener{listener, s.local.pipe} {
		go func() { failed <- s.grpc.Serve(l) }()
	}
	s.local.open()
	var err error
	running := 2
	select {
	case <-ctx.Done():
	case err = <-failed:
		running--
	}
	s.health.Shutdown()
	s.stop()
	for ; running > 0; running-- {
		err = errors.Join(err, <-failed)
	}
	err = errors.Join(err, s.local.close())
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("serving rpc on %s: %w", listener.Addr(), err)
	}
	return nil
}

func (s *Server) stop() {
	hard := time.AfterFunc(stopGrace, func() {
		s.local.end()
		s.grpc.Stop()
	})
	defer hard.Stop()
	var calls sync.WaitGroup
	calls.Go(s.local.refuse)
	s.grpc.GracefulStop()
	calls.Wait()
}

// chain makes one interceptor of several, the first outermost: both ways to the
// handlers take it.
func chain(list ...grpc.UnaryServerInterceptor) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		for _, interceptor := range slices.Backward(list) {
			inner := next
			next = func(ctx context.Context, req any) (any, error) { return interceptor(ctx, req, info, inner) }
		}
		return next(ctx, req)
	}
}

func (s *Server) unaryErrors(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	resp, err := next(ctx, req)
	return resp, s.status(info.FullMethod, err)
}

func (s *Server) streamErrors(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	return s.status(info.FullMethod, next(srv, stream))
}

// status is the one place where an error of no known kind becomes Internal.
func (s *Server) status(method string, err error) error {
	if err == nil {
		return nil
	}
	st := rpcerr.Status(err)
	if st.Code() == codes.Internal || st.Code() == codes.Unknown {
		s.log.Error("a call failed for an unknown reason", zap.String("method", method), zap.Error(err))
	}
	return st.Err()
}

func (s *Server) recovered(_ context.Context, cause any) error {
	s.log.Error("a call panicked", zap.Any("cause", cause), zap.ByteString("stack", debug.Stack()))
	return rpcerr.New(codes.Internal, "", "internal error")
}
