package route

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeConn is a connection that counts health checks and answers them with check.
type fakeConn struct {
	grpc.ClientConnInterface
	check func(context.Context) error

	mu     sync.Mutex // guards checks
	checks int
}

func (c *fakeConn) Invoke(ctx context.Context, _ string, _, _ any, _ ...grpc.CallOption) error {
	c.mu.Lock()
	c.checks++
	c.mu.Unlock()
	return c.check(ctx)
}

func (c *fakeConn) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.checks
}

// hang answers no health check.
func hang(ctx context.Context) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func newHealthChecker(t *testing.T) *healthChecker {
	t.Helper()
	endpoints, err := lru.New[string, *endpointHealth](maxEndpoints)
	require.NoError(t, err)
	return &healthChecker{endpoints: endpoints}
}

// watchMany runs n watches of one endpoint for d and returns their errors.
func watchMany(t *testing.T, checker *healthChecker, conn *fakeConn, n int, d time.Duration) []error {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = checker.watch(ctx, "e:1", conn) })
	}
	group.Wait()
	return errs
}

// The number of checks must not grow with the number of held pulls.
func TestConcurrentWatchesShareHealthChecks(t *testing.T) {
	for name, answer := range map[string]error{
		"serves": nil, "has no health service": status.Error(codes.Unimplemented, ""),
	} {
		synctest.Test(t, func(t *testing.T) {
			checker, conn := newHealthChecker(t), &fakeConn{check: func(context.Context) error { return answer }}
			for _, err := range watchMany(t, checker, conn, 100, 4*checkInterval+checkInterval/2) {
				require.NoError(t, err, name)
			}
			require.Equal(t, 5, conn.count(), name)
			require.False(t, checker.unresponsive("e:1"), name)
		})
	}
}

func TestFailedHealthCheckEndsAllWatches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checker, conn := newHealthChecker(t), &fakeConn{check: hang}
		start := time.Now()
		for _, err := range watchMany(t, checker, conn, 100, time.Hour) {
			require.ErrorIs(t, err, errUnresponsive)
		}
		require.Equal(t, checkTimeout, time.Since(start))
		require.Equal(t, 1, conn.count())
		require.True(t, checker.unresponsive("e:1"))
		require.False(t, checker.unresponsive("e:2"))
		<-time.After(avoidFor)
		require.False(t, checker.unresponsive("e:1"), "the result has expired")

		conn.check = func(context.Context) error { return nil }
		require.NoError(t, watchMany(t, checker, conn, 1, checkInterval)[0])
		require.False(t, checker.unresponsive("e:1"))
	})
}

// The clients disconnect while the check of their scheduler is running.
func TestHealthCheckOfACancelledCallIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checker, conn := newHealthChecker(t), &fakeConn{check: hang}
		require.NoError(t, watchMany(t, checker, conn, 3, checkTimeout/2)[0])
		require.False(t, checker.unresponsive("e:1"))
	})
}
