package gateway_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway"
)

// schedulersInOrder returns schedulers in the order in which they are called for
// taskA.
func schedulersInOrder(n int) []*scheduler {
	nodes := make([]ring.Node, n)
	for i := range nodes {
		nodes[i].ID = string(rune('a' + i))
	}
	var all []*scheduler
	for _, node := range ring.Order(taskA, nodes) {
		all = append(all, &scheduler{id: node.ID})
	}
	return all
}

// notOwner returns the error of a scheduler that names the owner.
func notOwner(owner *scheduler) error {
	return rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "not the owner").
		With("scheduler_id", owner.id).With("endpoint", owner.endpoint)
}

// pullAlways returns a pull function that fails with err.
func pullAlways(err error) func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
	return func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		return nil, err
	}
}

// registerAlways returns a register function that fails with err.
func registerAlways(err error) func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
	return func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		return nil, err
	}
}

// hangingPull is the pull function of a scheduler that hangs.
func hangingPull(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// closedEndpoint returns an endpoint without a listener.
func closedEndpoint(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func TestNotOwnerIsFollowedAndTheOwnerCached(t *testing.T) {
	s := schedulersInOrder(3)
	gw := start(t, gateway.Config{}, s...)
	s[0].pull = pullAlways(notOwner(s[1]))
	s[1].pull = pullAlways(notOwner(s[2]))
	require.Equal(t, 602, gw.get(pullA).code())
	require.Len(t, s[2].calls(), 1)
	require.Equal(t, 602, gw.get(pullA).code())
	require.Len(t, s[0].calls(), 1, "the owner is cached")
	require.Len(t, s[1].calls(), 1)
	require.Len(t, s[2].calls(), 2)

	// The task moves to another owner.
	s[1].pull = nil
	s[2].pull = pullAlways(notOwner(s[1]))
	require.Equal(t, 602, gw.get(pullA).code())
	require.Equal(t, 602, gw.get(pullA).code())
	require.Len(t, s[1].calls(), 3)
	require.Len(t, s[2].calls(), 3)
	require.Len(t, s[0].calls(), 1)
}

func TestOwnersThatNameEachOtherAreNotCalledWithoutPauses(t *testing.T) {
	s := schedulersInOrder(2)
	gw := start(t, gateway.Config{}, s...)
	s[0].pull = pullAlways(notOwner(s[1]))
	s[1].pull = pullAlways(notOwner(s[0]))
	require.Equal(t, 602, gw.get(pullA).code())
	require.LessOrEqual(t, len(s[0].calls())+len(s[1].calls()), 100, "there are pauses")
}

func TestDeadSchedulerIsSkipped(t *testing.T) {
	s := schedulersInOrder(2)
	serve(t, s...)
	gw := startWith(t, gateway.Config{}, view{{ID: s[0].id, Endpoint: closedEndpoint(t)}, {ID: s[1].id, Endpoint: s[1].endpoint}})
	require.Equal(t, 602, gw.get(pullA).code())
	require.Equal(t, 611, gw.get(sucA).code())
	require.Equal(t, 612, gw.get(downA).code())
	require.Equal(t, 1, gw.post("/task/metrics", countA).code())
	require.Len(t, s[1].calls(), 4)
}

func TestHungSchedulerLeavesTimeForTheNext(t *testing.T) {
	inMemNetwork(t, testHungSchedulerLeavesTimeForTheNext)
}

func testHungSchedulerLeavesTimeForTheNext(t *memNetwork) {
	s := schedulersInOrder(2)
	s[0].pull = hangingPull
	s[0].register = func(ctx context.Context, _ *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	gw := t.start(gateway.Config{MaxHold: 300 * time.Millisecond, CallBudget: time.Second}, s...)
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", gw.get(pullA).raw)
	require.Len(t, s[1].calls(), 1)
	last := s[1].calls()[0].(*schedulerv1.PullPiecesRequest)
	require.Zero(t, last.GetMaxWait().AsDuration(), "the scheduler that hung has used up the hold")
	require.Equal(t, 602, gw.get(pullA).code())
	require.Len(t, s[0].calls(), 1, "the scheduler that answered is called first now")
}

func TestHungOnlySchedulerGivesAWait(t *testing.T) {
	s := &scheduler{id: "s1"}
	s.pull = hangingPull
	s.report = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	gw := start(t, gateway.Config{MaxHold: 100 * time.Millisecond, CallBudget: 300 * time.Millisecond}, s)
	require.Equal(t, 602, gw.get(pullA).code())
	require.Equal(t, 611, gw.get(sucA).code())
}

func TestWithoutASchedulerPullsWaitAndRegistrationsAreUnavailable(t *testing.T) {
	gw := startWith(t, gateway.Config{MaxHold: 100 * time.Millisecond, CallBudget: 200 * time.Millisecond}, view(nil))
	require.Equal(t, 602, gw.get(pullA).code())
	require.Equal(t, 611, gw.get(sucA).code())
	for _, got := range []answer{gw.post("/peer/registry", good), gw.post("/peer/network", `{}`)} {
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		requireEnvelope(t, got)
	}
}

// initiallyEmptyView has no scheduler at its first call.
type initiallyEmptyView struct {
	members view
	calls   atomic.Int32
}

func (v *initiallyEmptyView) Schedulers() []cluster.Member {
	if v.calls.Add(1) == 1 {
		return nil
	}
	return v.members
}

func TestRetryableRegistrationsAndReportsAreRetried(t *testing.T) {
	s := &scheduler{id: "s1"}
	serve(t, s)
	members := &initiallyEmptyView{members: view{{ID: s.id, Endpoint: s.endpoint}}}
	gw := startWith(t, gateway.Config{}, members)
	var registered, reported atomic.Int32
	s.register = func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		if registered.Add(1) < 3 {
			return nil, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN yet")
		}
		return &schedulerv1.RegisterPeerResponse{TaskId: in.GetTaskId()}, nil
	}
	s.report = func(context.Context) error {
		if reported.Add(1)%2 == 1 {
			return rpcerr.New(codes.Unavailable, "", "not now")
		}
		return nil
	}
	require.Equal(t, 200, gw.post("/peer/registry", good).code())
	require.EqualValues(t, 3, registered.Load())
	require.Equal(t, 611, gw.get(sucA).code())
	require.Equal(t, 200, gw.get(errorA).code())
	require.Equal(t, 612, gw.get(downA).code())
	require.EqualValues(t, 6, reported.Load())
}

func TestHeldPullEndsWhenTheClientDisconnects(t *testing.T) {
	s := &scheduler{id: "s1"}
	held, ended := make(chan struct{}), make(chan struct{})
	s.pull = func(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		close(held)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	gw := start(t, gateway.Config{}, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, gw.base+pullA, nil)
	require.NoError(t, err)
	clientErr := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		clientErr <- err
	}()
	<-held
	cancel()
	require.Error(t, <-clientErr)
	<-ended
	gw.requireNoWarnings()
}

func TestStopAnswersHeldPullsWithAWait(t *testing.T) {
	s := &scheduler{id: "s1"}
	held := make(chan struct{})
	s.pull = func(ctx context.Context, in *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		close(held)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	gw := start(t, gateway.Config{}, s)
	answered := make(chan answer, 1)
	go func() { answered <- gw.get(pullA) }()
	<-held
	require.NoError(t, gw.stop())
	got := <-answered
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, 602, got.code())
	require.True(t, got.closes, "the connection must not be used again")
	_, err := net.Dial("tcp", gw.base[len("http://"):])
	require.Error(t, err, "the listener must be closed")
}

// A draining scheduler gets no new tasks, but the calls for tasks that it owns.
func TestDrainingSchedulerIsCalledLastUnlessItOwnsTheTask(t *testing.T) {
	s := schedulersInOrder(3)
	serve(t, s...)
	members := view{}
	for i, one := range s {
		members = append(members, cluster.Member{ID: one.id, Endpoint: one.endpoint, Draining: i == 0})
	}
	gw := startWith(t, gateway.Config{}, members)
	require.Equal(t, 602, gw.get(pullA).code())
	require.Empty(t, s[0].calls())
	require.Len(t, s[1].calls(), 1)
	s[1].pull, s[2].pull = pullAlways(notOwner(s[0])), pullAlways(notOwner(s[0]))
	require.Equal(t, 602, gw.get(pullA).code())
	require.Equal(t, 602, gw.get(pullA).code())
	require.Len(t, s[0].calls(), 2)
	require.Len(t, s[1].calls(), 2)
}
