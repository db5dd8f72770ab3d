package reach

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
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
	require.Eventually(t, func() bool { return slices.Equal(r.Heard(t.Context()), ids) }, patience, 5*time.Millisecond, "%v are to be heard", ids)
}

func requireDeaf(t *testing.T, r *Reach) {
	t.Helper()
	require.Eventually(t, func() bool { return r.Deaf(t.Context()) }, patience, 5*time.Millisecond)
}

func TestWhoIsHeard(t *testing.T) {
	r, members := run(t)
	require.False(t, r.Deaf(t.Context()), "there is nobody to hear")
	a, killA := cdn(t, "a")
	b, killB := cdn(t, "b")
	members.become(a, b)
	requireHeard(t, r, "a", "b")
	require.False(t, r.Deaf(t.Context()))
	killA()
	requireHeard(t, r, "b")
	require.False(t, r.Deaf(t.Context()))
	killB()
	requireHeard(t, r)
	requireDeaf(t, r)
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
	requireDeaf(t, r) // who drains takes no task
}

func TestWhoMovedIsHeardAtTheNewPlace(t *testing.T) {
	r, members := run(t)
	a, kill := cdn(t, "a")
	members.become(a)
	requireHeard(t, r, "a")
	kill()
	requireDeaf(t, r)
	a, _ = cdn(t, "a")
	members.become(a)
	requireHeard(t, r, "a")
	require.Eventually(t, func() bool { return !r.Deaf(t.Context()) }, patience, 5*time.Millisecond)
}

// Who is no member any more is not pinged either.
func TestWhoLeftIsLeftAlone(t *testing.T) {
	r, members := run(t)
	a, kill := cdn(t, "a")
	members.become(a)
	kill()
	require.Eventually(t, func() bool { return r.health.Missed("a") }, patience, 5*time.Millisecond)
	members.become()
	require.Eventually(t, func() bool { return !r.health.Missed("a") }, patience, 5*time.Millisecond, "it is not watched")
	require.False(t, r.Deaf(t.Context()))
}

// When the CDNs are gone all tasks ask, within a moment.
func TestAllWhoAskWithinAMomentShareTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, asked := New(nil, nil, nil), 0
		ask := func() answer {
			return r.once(t.Context(), "x", func(context.Context) ([]string, error) {
				asked++ // one at a time
				<-time.After(fresh / 2)
				return []string{"a"}, nil
			})
		}
		var work sync.WaitGroup
		for range 100 {
			work.Go(func() { ask() })
		}
		work.Wait()
		require.Equal(t, []string{"a"}, ask().cdns)
		require.Equal(t, 1, asked)
		<-time.After(fresh)
		ask()
		require.Equal(t, 2, asked, "an answer does not count for ever")
	})
}

// Others rely on an answer though the first who asked has left.
func TestWhoLeavesDoesNotSpoilTheAnswer(t *testing.T) {
	r := New(nil, nil, nil)
	ctx, leave := context.WithCancel(t.Context())
	leave()
	a := r.once(ctx, "x", func(ctx context.Context) ([]string, error) { return nil, ctx.Err() })
	require.NoError(t, a.err)
}

// standby is a scheduler that hears two CDNs.
type standby struct {
	schedulerv1.UnimplementedSchedulerServiceServer
}

func (standby) ListReachable(context.Context, *schedulerv1.ListReachableRequest) (*schedulerv1.ListReachableResponse, error) {
	return &schedulerv1.ListReachableResponse{CdnIds: []string{"x", "y"}}, nil
}

func TestAnotherIsAsked(t *testing.T) {
	r, _ := run(t)
	endpoint, stop := rpctest.Serve(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, standby{}) })
	require.Eventually(t, func() bool {
		heard, err := r.HeardAt(t.Context(), endpoint)
		return err == nil && slices.Equal(heard, []string{"x", "y"})
	}, patience, 20*time.Millisecond)
	stop()
	require.Eventually(t, func() bool {
		_, err := r.HeardAt(t.Context(), endpoint)
		return err != nil
	}, patience, 20*time.Millisecond)
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
