package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// reconnectTimeout is how long a connection that is broken may take to come back: it
// may still be in the back-off from before the instance started.
const reconnectTimeout = 400 * time.Millisecond

// ping asks once, and once more when the connection was broken. Refused says
// that it could not be made again.
func (m *Monitor) ping(ctx context.Context, endpoint string) (refused bool, err error) {
	conn, err := m.dial(endpoint)
	if err != nil {
		return true, fmt.Errorf("connecting to %s: %w", endpoint, err)
	}
	err = check(ctx, conn, m.cfg.Timeout)
	if status.Code(err) != codes.Unavailable {
		return false, unreachableError(endpoint, err)
	}
	if isRefused(ctx, endpoint) {
		return true, unreachableError(endpoint, err)
	}
	if c, ok := conn.(interface{ ResetConnectBackoff() }); ok {
		c.ResetConnectBackoff()
	}
	err = check(ctx, conn, min(reconnectTimeout, m.cfg.Timeout), grpc.WaitForReady(true))
	return err != nil, unreachableError(endpoint, err)
}

// isRefused tells whether a connection is refused. A gRPC connection would
// not say so but try on.
func isRefused(ctx context.Context, endpoint string) bool {
	dialer := net.Dialer{Timeout: reconnectTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = conn.Close() // was only a question
	return false
}

func check(ctx context.Context, conn grpc.ClientConnInterface, timeout time.Duration, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, opts...)
	return err
}

// unreachableError keeps of an error only what says that nobody is there.
func unreachableError(endpoint string, err error) error {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("pinging %s: %w", endpoint, err)
	}
	return nil
}
