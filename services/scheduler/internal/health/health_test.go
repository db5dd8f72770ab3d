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

	mu     sync.Mutex
	hung   chan struct{} // not nil while the server hangs; closed when it resumes
	answer func() (*healthv1.HealthCheckResponse, error)
}

func (s *server) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	s.pings.Add(1)
	s.mu.Lock()
	hung, answer := s.hung, s.answer
	s.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return answer()
}

func (s *server) setHanging(hangs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case hangs:
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
	s := &server{answer: serving}
	s.endpoint, s.stop = rpctest.ServeAt(t, address, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, s) })
	return s
}

// ownAddress returns an address in 127/8 that only this test uses, with any port. No
// other process takes the port while the test does not listen on it. At 127.0.0.1
// another process might, and outgoing connections use ports there.
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

// manualPings returns a configuration without periodic pings.
func manualPings(timeout time.Duration) Config { return Config{Interval: time.Hour, Timeout: timeout} }

// await waits until f returns true. It checks f whenever the suspects change.
func await(t *testing.T, m *Monitor, f func() bool) {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		changed := m.Changed()
		if f() {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			require.FailNow(t, "no change within the test timeout")
		}
	}
}

func TestInstanceThatHangsIsSuspectUntilItAnswers(t *testing.T) {
	t.Parallel()
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, quickPings())
	release := m.Watch("a", s.endpoint)
	defer release()
	s.setHanging(true)
	await(t, m, func() bool { return m.Suspect("a") })
	require.Equal(t, []string{"a"}, m.Suspects())
	s.setHanging(false)
	await(t, m, func() bool { return !m.Suspect("a") })
	require.Empty(t, m.Suspects())
}

func TestOneMissedPingDoesNotMakeASuspect(t *testing.T) {
	t.Parallel()
	const miss = 5 * time.Second // long enough for an answer on a busy machine
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, manualPings(miss))
	defer m.Watch("a", s.endpoint)()
	s.setHanging(true)
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.False(t, m.Suspect("a"))
	s.setHanging(false)
	require.NoError(t, m.Check(t.Context(), "a", s.endpoint))
	s.setHanging(true)
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.False(t, m.Suspect("a"), "the two misses are not in a row")
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.True(t, m.Suspect("a"))
	s.setHanging(false)
}

func TestRefusedConnectionMakesASuspectAtOnce(t *testing.T) {
	t.Parallel()
	s, m := serve(t, ownAddress(1)), newTestMonitor(t, manualPings(testTimeout))
	defer m.Watch("a", s.endpoint)()
	require.NoError(t, m.Check(t.Context(), "a", s.endpoint))
	s.stop()
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	require.True(t, m.Suspect("a"))
}

func TestInstanceThatStartsDuringConnectionBackoffAnswers(t *testing.T) {
	t.Parallel()
	s, m := serve(t, ownAddress(2)), newTestMonitor(t, manualPings(testTimeout))
	s.stop()
	for range 5 { // until the connection's back-off is about a second
		require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	}
	again := serve(t, s.endpoint)
	require.NoError(t, m.Check(t.Context(), "a", again.endpoint))
}

func TestAnyAnswerCountsAsAlive(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func() (*healthv1.HealthCheckResponse, error){
		"draining": func() (*healthv1.HealthCheckResponse, error) {
			return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}, nil
		},
		"service unknown":   func() (*healthv1.HealthCheckResponse, error) { return nil, status.Error(codes.NotFound, "") },
		"no health service": func() (*healthv1.HealthCheckResponse, error) { return nil, status.Error(codes.Unimplemented, "") },
	} {
		s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, manualPings(testTimeout))
		s.answer = answer
		require.NoError(t, m.Check(t.Context(), "a", s.endpoint), name)
	}
}

func TestInstanceIsPingedUntilTheLastWatcherReleasesIt(t *testing.T) {
	t.Parallel()
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, quickPings())
	first, second := m.Watch("a", s.endpoint), m.Watch("a", s.endpoint)
	first()
	first() // has no effect the second time
	s.setHanging(true)
	await(t, m, func() bool { return m.Suspect("a") })
	second()
	require.False(t, m.Suspect("a"), "it is no longer watched")
	require.Empty(t, m.instances)
	m.Poke("a") // it is not watched
	require.Empty(t, m.instances)
	s.setHanging(false)
}

func TestConcurrentChecksShareAPing(t *testing.T) {
	t.Parallel()
	s, m := serve(t, "127.0.0.1:0"), newTestMonitor(t, manualPings(testTimeout))
	defer m.Watch("a", s.endpoint)()
	s.setHanging(true)
	m.Poke("a")
	var work sync.WaitGroup
	answers := make(chan error, 50)
	for range cap(answers) {
		work.Go(func() { answers <- m.Check(t.Context(), "a", s.endpoint) })
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, m.Check(canceled, "a", s.endpoint), context.Canceled, "a canceled caller does not wait")
	s.setHanging(false)
	work.Wait()
	close(answers)
	for err := range answers {
		require.NoError(t, err)
	}
	require.Less(t, s.pings.Load(), int64(cap(answers)))
}

func TestClosedMonitorPingsNoInstance(t *testing.T) {
	t.Parallel()
	s := serve(t, "127.0.0.1:0")
	m := newTestMonitor(t, quickPings())
	m.Close()
	release := m.Watch("a", s.endpoint)
	require.Error(t, m.Check(t.Context(), "a", s.endpoint))
	release()
	require.Zero(t, s.pings.Load())
}
