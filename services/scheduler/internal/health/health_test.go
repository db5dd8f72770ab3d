package health

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 20 * time.Second

// server is a health server that can stop answering.
type server struct {
	healthv1.UnimplementedHealthServer
	pings    atomic.Int64
	endpoint string
	stop     func()

	mu   sync.Mutex
	hung chan struct{} // open while it answers nothing
	says func() (*healthv1.HealthCheckResponse, error)
}

func (s *server) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	s.pings.Add(1)
	s.mu.Lock()
	hung, says := s.hung, s.says
	s.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return says()
}

func (s *server) hang(does bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case does:
		s.hung = make(chan struct{})
	case s.hung != nil:
		close(s.hung)
		s.hung = nil
	}
}

func serving() (*healthv1.HealthCheckResponse, error) {
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
}

func serve(t *testing.T, address string) *server {
	t.Helper()
	s := &server{says: serving}
	s.endpoint, s.stop = rpctest.ServeAt(t, address, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, s) })
	return s
}

// ownAddress is one of 127/8 that is a test's own, with any port: nobody takes
// the port while the test does not listen there. At 127.0.0.1 others might, and
// outgoing connections come from there.
func ownAddress(test int) string {
	return fmt.Sprintf("127.%d.%d.%d:0", test, 100+os.Getpid()/200%100, 1+os.Getpid()%200)
}

func newTestMonitor(t *testing.T, cfg Config) *Monitor {
	t.Helper()
	pool := rpcclient.NewPool("", nil)
	m := New(cfg, pool.Dial, zap.NewNop())
	t.Cleanup(func() {
		m.Close()
		require.NoError(t, pool.Close())
	})
	return m
}

func quickPings() Config {
	return Config{Interval: 10 * time.Millisecond, Timeout: 100 * time.Millisecond}
}

// manualPings asks only when it is told to, and waits so long for an answer.
func manualPings(timeout time.Duration) Config { return Config{Interval: time.Hour, Timeout: timeout} }

func await(t *testing.T, m *Monitor, f func() bool) {
	t.Helper()
	late := time.After(testTimeout)
	for {
		changed := m.Changed()
		if f() {
			return
		}
		select {
		case <-changed:
		case <-late:
			require.FailNow(t, "nothing changed")
		}
	}
}

func TestInstanceThatHangsIsSuspectUntilItAnswers(t *testing.T) {
	t.Parallel()
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, quickPings())
	release := m.Watch("a", s.endpoint)
	defer release()
	s.hang(true)
	await(t, m, func() bool { return m.Suspect("a") })
	require.Equal(t, []string{"a"}, m.Suspects())
	s.hang(false)
	await(t, m, func() bool { return !m.Suspect("a") })
	require.Empty(t, m.Suspects())
}

func TestOneMissIsNone(t *testing.T) {
	t.Parallel()
	const miss = 5 * time.Second // an answer that is there must not be one
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, manualPings(miss))
	defer m.Watch("a", s.endpoint)()
	s.hang(true)
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.False(t, m.Suspect("a"))
	s.hang(false)
	require.NoError(t, m.Check(t.Context(), "a", s.endpoint))
	s.hang(true)
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.False(t, m.Suspect("a"), "not in a row")
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.True(t, m.Suspect("a"))
	s.hang(false)
}

func TestRefusedConnectionIsEnough(t *testing.T) {
	t.Parallel()
	s, m := serve(t, ownAddress(1)), newTestMonitor(t, manualPings(testTimeout))
	defer m.Watch("a", s.endpoint)()
	require.NoError(t, m.Check(t.Context(), "a", s.endpoint))
	s.stop()
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.True(t, m.Suspect("a"))
}

func TestInstanceThatStartsWhileItsConnectionBacksOffIsThere(t *testing.T) {
	t.Parallel()
	s, m := serve(t, ownAddress(2)), newTestMonitor(t, manualPings(testTimeout))
	s.stop()
	for range 5 { // the connection's own next try is a second away by now
		require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	}
	again := serve(t, s.endpoint)
	require.NoError(t, m.Check(t.Context(), "a", again.endpoint))
}

func TestAnyAnswerIsOne(t *testing.T) {
	t.Parallel()
	for name, says := range map[string]func() (*healthv1.HealthCheckResponse, error){
		"draining": func() (*healthv1.HealthCheckResponse, error) {
			return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}, nil
		},
		"not known there": func() (*healthv1.HealthCheckResponse, error) { return nil, status.Error(codes.NotFound, "") },
		"no such service": func() (*healthv1.HealthCheckResponse, error) { return nil, status.Error(codes.Unimplemented, "") },
	} {
		s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, manualPings(testTimeout))
		s.says = says
		require.NoError(t, m.Check(t.Context(), "a", s.endpoint), name)
	}
}

func TestOnlyWhoIsWatchedIsPinged(t *testing.T) {
	t.Parallel()
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, quickPings())
	first, second := m.Watch("a", s.endpoint), m.Watch("a", s.endpoint)
	first()
	first() // twice is once
	s.hang(true)
	await(t, m, func() bool { return m.Suspect("a") })
	second()
	require.False(t, m.Suspect("a"), "nobody wants to know")
	require.Empty(t, m.instances)
	m.Poke("a") // is not watched
	require.Empty(t, m.instances)
	s.hang(false)
}

func TestWhoAskAtTheSameTimeShareThePing(t *testing.T) {
	t.Parallel()
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, manualPings(testTimeout))
	defer m.Watch("a", s.endpoint)()
	s.hang(true)
	m.Poke("a")
	var work sync.WaitGroup
	answers := make(chan error, 50)
	for range cap(answers) {
		work.Go(func() { answers <- m.Check(t.Context(), "a", s.endpoint) })
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	require.ErrorIs(t, m.Check(gone, "a", s.endpoint), context.Canceled, "who leaves waits for nothing")
	s.hang(false)
	work.Wait()
	close(answers)
	for err := range answers {
		require.NoError(t, err)
	}
	require.Less(t, s.pings.Load(), int64(cap(answers)))
}

func TestClosedMonitorAsksNobody(t *testing.T) {
	t.Parallel()
	s := serve(t, "127.0.0.1:0")
	m := newTestMonitor(t, quickPings())
	m.Close()
	release := m.Watch("a", s.endpoint)
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	release()
	require.Zero(t, s.pings.Load())
}
