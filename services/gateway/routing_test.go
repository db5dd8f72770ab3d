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

// inOrder gives schedulers in the order in which they are asked for taskA.
func inOrder(n int) []*scheduler {
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

func notOwner(owner *scheduler) error {
	return rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "not mine").
		With("scheduler_id", owner.id).With("endpoint", owner.endpoint)
}

func pullAlways(err error) func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
	return func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		return nil, err
	}
}

// deadEndpoint is where nobody listens.
func deadEndpoint(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return l.Addr().String()
}

func TestOwnerIsFollowedAndRemembered(t *testing.T) {
	s := inOrder(3)
	w := start(t, gateway.Config{}, s...)
	s[0].pull = pullAlways(notOwner(s[1]))
	s[1].pull = pullAlways(notOwner(s[2]))
	require.Equal(t, 602, w.get(pullA).code())
	require.Len(t, s[2].calls(), 1)
	require.Equal(t, 602, w.get(pullA).code())
	require.Len(t, s[0].calls(), 1, "the owner is remembered")
	require.Len(t, s[1].calls(), 1)
	require.Len(t, s[2].calls(), 2)

	// The ownership moves on.
	s[1].pull = nil
	s[2].pull = pullAlways(notOwner(s[1]))
	require.Equal(t, 602, w.get(pullA).code())
	require.Equal(t, 602, w.get(pullA).code())
	require.Len(t, s[1].calls(), 3)
	require.Len(t, s[2].calls(), 3)
	require.Len(t, s[0].calls(), 1)
}

func TestOwnersThatPointAtEachOther(t *testing.T) {
	s := inOrder(2)
	w := start(t, gateway.Config{}, s...)
	s[0].pull = pullAlways(notOwner(s[1]))
	s[1].pull = pullAlways(notOwner(s[0]))
	require.Equal(t, 602, w.get(pullA).code())
	require.LessOrEqual(t, len(s[0].calls())+len(s[1].calls()), 100, "there are pauses")
}

func TestDeadSchedulerIsPassedOver(t *testing.T) {
	s := inOrder(2)
	serve(t, s...)
	w := startWith(t, gateway.Config{}, view{{ID: s[0].id, Endpoint: deadEndpoint(t)}, {ID: s[1].id, Endpoint: s[1].endpoint}})
	require.Equal(t, 602, w.get(pullA).code())
	require.Equal(t, 611, w.get(sucA).code())
	require.Equal(t, 612, w.get(downA).code())
	require.Equal(t, 1, w.post("/task/metrics", countA).code())
	require.Len(t, s[1].calls(), 4)
}

func TestHungSchedulerLeavesTimeForTheNext(t *testing.T) {
	inMemory(t, testHungSchedulerLeavesTimeForTheNext)
}

func testHungSchedulerLeavesTimeForTheNext(t *memory) {
	s := inOrder(2)
	s[0].pull = func(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s[0].register = func(ctx context.Context, _ *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w := t.start(gateway.Config{MaxHold: 300 * time.Millisecond, CallBudget: time.Second}, s...)
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", w.get(pullA).raw)
	require.Len(t, s[1].calls(), 1)
	last := s[1].calls()[0].(*schedulerv1.PullPiecesRequest)
	require.Zero(t, last.GetMaxWait().AsDuration(), "the hold was used up by the one that hung")
	require.Equal(t, 602, w.get(pullA).code())
	require.Len(t, s[0].calls(), 1, "who answered is asked first from then on")
}

func TestHungSchedulerAlone(t *testing.T) {
	s := &scheduler{id: "s1"}
	s.pull = func(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s.report = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	w := start(t, gateway.Config{MaxHold: 100 * time.Millisecond, CallBudget: 300 * time.Millisecond}, s)
	require.Equal(t, 602, w.get(pullA).code())
	require.Equal(t, 611, w.get(sucA).code())
}

func TestNoScheduler(t *testing.T) {
	w := startWith(t, gateway.Config{MaxHold: 100 * time.Millisecond, CallBudget: 200 * time.Millisecond}, view(nil))
	require.Equal(t, 602, w.get(pullA).code())
	require.Equal(t, 611, w.get(sucA).code())
	for _, got := range []answer{w.post("/peer/registry", good), w.post("/peer/network", `{}`)} {
		require.Equal(t, http.StatusServiceUnavailable, got.status)
		requireEnvelope(t, got)
	}
}

// lateView has no scheduler when it is asked first.
type lateView struct {
	members view
	asked   atomic.Int32
}

func (v *lateView) Schedulers() []cluster.Member {
	if v.asked.Add(1) == 1 {
		return nil
	}
	return v.members
}

func TestRegistrationsAndReportsAreRepeated(t *testing.T) {
	s := &scheduler{id: "s1"}
	serve(t, s)
	late := &lateView{members: view{{ID: s.id, Endpoint: s.endpoint}}}
	w := startWith(t, gateway.Config{}, late)
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
	require.Equal(t, 200, w.post("/peer/registry", good).code())
	require.EqualValues(t, 3, registered.Load())
	require.Equal(t, 611, w.get(sucA).code())
	require.Equal(t, 200, w.get(errorA).code())
	require.Equal(t, 612, w.get(downA).code())
	require.EqualValues(t, 6, reported.Load())
}

// TestWhoGoesIsNotWaitedFor ends a held pull from the client's side.
func TestWhoGoesIsNotWaitedFor(t *testing.T) {
	s := &scheduler{id: "s1"}
	held, ended := make(chan struct{}), make(chan struct{})
	s.pull = func(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		close(held)
		<-ctx.Done()
		close(ended)
		return nil, ctx.Err()
	}
	w := start(t, gateway.Config{}, s)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.base+pullA, nil)
	require.NoError(t, err)
	gone := make(chan error, 1)
	go func() {
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = resp.Body.Close()
		}
		gone <- err
	}()
	<-held
	cancel()
	require.Error(t, <-gone)
	<-ended
	w.quiet()
}

// TestStopAnswersHeldPulls stops the gateway while a pull is held.
func TestStopAnswersHeldPulls(t *testing.T) {
	s := &scheduler{id: "s1"}
	held := make(chan struct{})
	s.pull = func(ctx context.Context, in *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		close(held)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	w := start(t, gateway.Config{}, s)
	answered := make(chan answer, 1)
	go func() { answered <- w.get(pullA) }()
	<-held
	require.NoError(t, w.stop())
	got := <-answered
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, 602, got.code())
	require.True(t, got.last, "the connection is not used again")
	_, err := net.Dial("tcp", w.base[len("http://"):])
	require.Error(t, err, "nobody is accepted any more")
}
