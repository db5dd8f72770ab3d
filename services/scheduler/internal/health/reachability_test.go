package health

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
)

// memberList is a list of members that a test changes.
type memberList struct {
	mu      sync.Mutex
	list    []cluster.Member
	changed chan struct{}
}

func (c *memberList) Members(cluster.Role) []cluster.Member {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.list
}

func (c *memberList) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

func (c *memberList) set(list ...cluster.Member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = list
	close(c.changed)
	c.changed = make(chan struct{})
}

// startCDN starts a CDN that answers pings until kill is called.
func startCDN(t *testing.T, id string) (m cluster.Member, kill func()) {
	t.Helper()
	endpoint, kill := rpctest.Serve(t, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, grpchealth.NewServer()) })
	return cluster.Member{ID: id, Role: cluster.CDN, Endpoint: endpoint}, kill
}

func runReachability(t *testing.T) (*Reachability, *memberList) {
	t.Helper()
	pool, members := rpcclient.NewPool("", nil), &memberList{changed: make(chan struct{})}
	monitor := New(Config{Interval: 10 * time.Millisecond, Timeout: 2 * time.Second}, pool.Dial, zap.NewNop())
	r := NewReachability(monitor, members, pool.Dial)
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

func requireReachable(t *testing.T, r *Reachability, ids ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return slices.Equal(r.Reachable(t.Context()), ids) }, testTimeout, 5*time.Millisecond, "these CDNs are reachable: %v", ids)
}

func requireIsolated(t *testing.T, r *Reachability) {
	t.Helper()
	require.Eventually(t, func() bool { return r.Isolated(t.Context()) }, testTimeout, 5*time.Millisecond)
}

func TestReachableReturnsTheCDNsThatAnswer(t *testing.T) {
	r, members := runReachability(t)
	require.False(t, r.Isolated(t.Context()), "there is no CDN")
	a, killA := startCDN(t, "a")
	b, killB := startCDN(t, "b")
	members.set(a, b)
	requireReachable(t, r, "a", "b")
	require.False(t, r.Isolated(t.Context()))
	killA()
	requireReachable(t, r, "b")
	require.False(t, r.Isolated(t.Context()))
	killB()
	requireReachable(t, r)
	requireIsolated(t, r)
}

func TestDrainingCDNIsNotReachable(t *testing.T) {
	r, members := runReachability(t)
	a, _ := startCDN(t, "a")
	b, killB := startCDN(t, "b")
	members.set(a, b)
	requireReachable(t, r, "a", "b")
	a.Draining = true
	members.set(a, b)
	requireReachable(t, r, "b")
	killB()
	requireIsolated(t, r) // a draining CDN accepts no task
}

func TestCDNIsReachableAtItsNewEndpoint(t *testing.T) {
	r, members := runReachability(t)
	a, kill := startCDN(t, "a")
	members.set(a)
	requireReachable(t, r, "a")
	kill()
	requireIsolated(t, r)
	a, _ = startCDN(t, "a")
	members.set(a)
	requireReachable(t, r, "a")
	require.Eventually(t, func() bool { return !r.Isolated(t.Context()) }, testTimeout, 5*time.Millisecond)
}

func TestCDNThatHasLeftIsNotWatched(t *testing.T) {
	r, members := runReachability(t)
	a, kill := startCDN(t, "a")
	members.set(a)
	kill()
	require.Eventually(t, func() bool { return r.monitor.Missed("a") }, testTimeout, 5*time.Millisecond)
	members.set()
	require.Eventually(t, func() bool { return !r.monitor.Missed("a") }, testTimeout, 5*time.Millisecond, "it is no longer watched")
	require.False(t, r.Isolated(t.Context()))
}

// When all CDNs are lost, every task asks at the same time.
func TestCallersShareAnAnswerUntilItExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, asked := NewReachability(nil, nil, nil), 0
		ask := func() answer {
			return r.shared(t.Context(), "x", func(context.Context) ([]string, error) {
				asked++ // singleflight runs one call at a time
				<-time.After(answerTTL / 2)
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
		<-time.After(answerTTL)
		ask()
		require.Equal(t, 2, asked, "an answer expires")
	})
}

func TestCanceledCallerDoesNotCancelTheSharedAnswer(t *testing.T) {
	r := NewReachability(nil, nil, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	a := r.shared(ctx, "x", func(ctx context.Context) ([]string, error) { return nil, ctx.Err() })
	require.NoError(t, a.err)
}

// fakeStandby is a scheduler that two CDNs answer.
type fakeStandby struct {
	schedulerv1.UnimplementedSchedulerServiceServer
}

func (fakeStandby) ListReachable(context.Context, *schedulerv1.ListReachableRequest) (*schedulerv1.ListReachableResponse, error) {
	return &schedulerv1.ListReachableResponse{CdnIds: []string{"x", "y"}}, nil
}

func TestReachableFromReturnsTheAnswerOfAnotherScheduler(t *testing.T) {
	r, _ := runReachability(t)
	endpoint, stop := rpctest.Serve(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, fakeStandby{}) })
	require.Eventually(t, func() bool {
		reachable, err := r.ReachableFrom(t.Context(), endpoint)
		return err == nil && slices.Equal(reachable, []string{"x", "y"})
	}, testTimeout, 20*time.Millisecond)
	stop()
	require.Eventually(t, func() bool {
		_, err := r.ReachableFrom(t.Context(), endpoint)
		return err != nil
	}, testTimeout, 20*time.Millisecond)
}

// A scheduler of an older version does not implement ListReachable.
func TestReachableFromFailsForASchedulerOfAnOlderVersion(t *testing.T) {
	r, _ := runReachability(t)
	endpoint, _ := rpctest.Serve(t, func(g *grpc.Server) {
		schedulerv1.RegisterSchedulerServiceServer(g, schedulerv1.UnimplementedSchedulerServiceServer{})
	})
	reachable, err := r.ReachableFrom(t.Context(), endpoint)
	require.Error(t, err)
	require.Empty(t, reachable)
}
