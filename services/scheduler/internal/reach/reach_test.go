package reach

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const patience = 20 * time.Second

// crowd is a list of members that a test changes.
type crowd struct {
	mu      sync.Mutex
	list    []cluster.Member
	changed chan struct{}
}

func (c *crowd) Members(cluster.Role) []cluster.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list
}

func (c *crowd) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *crowd) become(list ...cluster.Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = list
	close(c.changed)
	c.changed = make(chan struct{})
}

// cdn runs what answers pings until it is killed.
func cdn(t *testing.T, id string) (m cluster.Member, kill func()) {
	t.Helper()
	endpoint, kill := rpctest.Serve(t, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, grpchealth.NewServer()) })
	return cluster.Member{ID: id, Role: cluster.CDN, Endpoint: endpoint}, kill
}

func run(t *testing.T) (*Reach, *crowd) {
	t.Helper()
	pool, members := rpcclient.NewPool("", nil), &crowd{changed: make(chan struct{})}
	monitor := health.New(health.Config{Interval: 10 * time.Millisecond, Timeout: 2 * time.Second}, pool.Dial, zap.NewNop())
	r := New(monitor, members, pool.Dial)
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	work.Go(func() { r.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		work.Wait()
		monitor.Close()
		require.NoError(t, pool.Close())
	})
	return r, members
}

func requireHeard(t *testing.T, r *Reach, ids ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return slices.Equal(r.Heard(), ids) }, patience, 5*time.Millisecond, "%v are to be heard", ids)
}

func TestWhoIsHeard(t *testing.T) {
	r, members := run(t)
	require.False(t, r.Deaf(nil), "there is nobody to hear")
	a, killA := cdn(t, "a")
	b, killB := cdn(t, "b")
	members.become(a, b)
	requireHeard(t, r, "a", "b")
	require.False(t, r.Deaf(nil))
	require.False(t, r.Deaf([]string{"a"}))
	require.False(t, r.Deaf([]string{"a", "b"}), "another scheduler could use none either")
	killA()
	requireHeard(t, r, "b")
	require.False(t, r.Deaf(nil))
	require.True(t, r.Deaf([]string{"b"}), "the only one that answers is of no use")
	killB()
	requireHeard(t, r)
	require.Eventually(t, func() bool { return r.Deaf(nil) }, patience, 5*time.Millisecond)
}

func TestWhoDrainsIsNotHeard(t *testing.T) {
	r, members := run(t)
	a, _ := cdn(t, "a")
	b, killB := cdn(t, "b")
	members.become(a, b)
	requireHeard(t, r, "a", "b")
	a.Draining = true
	members.become(a, b)
	requireHeard(t, r, "b")
	killB()
	require.Eventually(t, func() bool { return r.Deaf(nil) }, patience, 5*time.Millisecond, "who drains takes no task")
}

func TestWhoMovedIsHeardAtTheNewPlace(t *testing.T) {
	r, members := run(t)
	a, kill := cdn(t, "a")
	members.become(a)
	requireHeard(t, r, "a")
	kill()
	require.Eventually(t, func() bool { return r.Deaf(nil) }, patience, 5*time.Millisecond)
	a, _ = cdn(t, "a")
	members.become(a)
	requireHeard(t, r, "a")
	members.become()
	requireHeard(t, r)
	require.False(t, r.Deaf(nil))
}

// standby is a scheduler that hears two CDNs.
type standby struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	asked atomic.Int64
}

func (s *standby) ListReachable(context.Context, *schedulerv1.ListReachableRequest) (*schedulerv1.ListReachableResponse, error) {
	s.asked.Add(1)
	return &schedulerv1.ListReachableResponse{CdnIds: []string{"x", "y"}}, nil
}

func TestAnotherIsAskedOnceForAllTasks(t *testing.T) {
	r, _ := run(t)
	s := &standby{}
	endpoint, stop := rpctest.Serve(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, s) })
	const tasks = 100
	var work sync.WaitGroup
	began := time.Now()
	for range tasks {
		work.Go(func() {
			heard, err := r.HeardAt(t.Context(), endpoint)
			require.NoError(t, err)
			require.Equal(t, []string{"x", "y"}, heard)
		})
	}
	work.Wait()
	require.LessOrEqual(t, s.asked.Load(), 1+int64(time.Since(began)/fresh), "an answer counts for a while")
	stop()
	require.Eventually(t, func() bool {
		_, err := r.HeardAt(t.Context(), endpoint)
		return err != nil
	}, patience, 20*time.Millisecond, "what it said before must not count for ever")
}

// One of a version that cannot tell is none that hears anybody.
func TestWhoCannotTellHearsNobody(t *testing.T) {
	r, _ := run(t)
	endpoint, _ := rpctest.Serve(t, func(g *grpc.Server) {
		schedulerv1.RegisterSchedulerServiceServer(g, schedulerv1.UnimplementedSchedulerServiceServer{})
	})
	heard, err := r.HeardAt(t.Context(), endpoint)
	require.Error(t, err)
	require.Empty(t, heard)
}
