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

// reconnectTimeout is the time that a broken connection has to be restored. It may
// still be in the back-off of an attempt from before the instance started.
const reconnectTimeout = 400 * time.Millisecond

// ping sends a health check, and a second one if the connection was broken. refused is
// set if the connection could not be made or restored.
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

// isRefused reports whether the endpoint refuses TCP connections. A gRPC connection
// does not report that: it connects again and again until the deadline.
func isRefused(ctx context.Context, endpoint string) bool {
	dialer := net.Dialer{Timeout: reconnectTimeout}
	conn, err := dialer.DialContext(ctx, "tcp", endpoint)
	if err != nil {
		return errors.Is(err, syscall.ECONNREFUSED)
	}
	_ = conn.Close() // nothing was sent on it
	return false
}

func check(ctx context.Context, conn grpc.ClientConnInterface, timeout time.Duration, opts ...grpc.CallOption) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := healthv1.NewHealthClient(conn).Check(ctx, &healthv1.HealthCheckRequest{}, opts...)
	return err
}

// unreachableError returns an error if err means that the instance has not answered,
// and nil for any other error: that one is an answer.
func unreachableError(endpoint string, err error) error {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return fmt.Errorf("pinging %s: %w", endpoint, err)
	}
	return nil
}
