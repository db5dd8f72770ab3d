package cluster_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRegistry is a registry with functions of the test as its methods.
type fakeRegistry struct {
	registryv1.UnimplementedRegistryServiceServer
	heartbeat func(context.Context) (*registryv1.HeartbeatResponse, error)
	states    chan registryv1.MemberState // states of the heartbeats, unless nil
	watch     func(registryv1.RegistryService_WatchMembersServer) error
}

func (r *fakeRegistry) Heartbeat(ctx context.Context, in *registryv1.HeartbeatRequest) (*registryv1.HeartbeatResponse, error) {
	if r.states != nil {
		r.states <- in.GetMember().GetState()
	}
	return r.heartbeat(ctx)
}

func (*fakeRegistry) Leave(context.Context, *registryv1.LeaveRequest) (*registryv1.LeaveResponse, error) {
	return &registryv1.LeaveResponse{}, nil
}

func (r *fakeRegistry) WatchMembers(_ *registryv1.WatchMembersRequest, s registryv1.RegistryService_WatchMembersServer) error {
	return r.watch(s)
}

func (r *fakeRegistry) client(t *testing.T) registryv1.RegistryServiceClient {
	t.Helper()
	endpoint, _ := rpctest.Serve(t, func(g *grpc.Server) { registryv1.RegisterRegistryServiceServer(g, r) })
	pool := rpcclient.NewPool("", nil)
	conn, err := pool.Dial(endpoint)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	return registryv1.NewRegistryServiceClient(conn)
}

// start runs f until the test ends.
func start(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func TestHeartbeatThatHangsTimesOutWithinAThirdOfTheLease(t *testing.T) {
	t.Parallel()
	left := make(chan time.Duration, 1)
	var beats atomic.Int32
	r := &fakeRegistry{heartbeat: func(ctx context.Context) (*registryv1.HeartbeatResponse, error) {
		if beats.Add(1) == 2 {
			deadline, _ := ctx.Deadline()
			left <- time.Until(deadline)
			<-ctx.Done()
		}
		return &registryv1.HeartbeatResponse{Ttl: durationpb.New(time.Second)}, nil
	}}
	registry := r.client(t)
	start(t, func(ctx context.Context) error {
		return cluster.NewAnnouncer(registry, cluster.Member{ID: "x", Role: cluster.CDN}, zap.NewNop()).Run(ctx)
	})
	require.LessOrEqual(t, <-left, time.Second/3)
	require.Eventually(t, func() bool { return beats.Load() > 2 }, 20*time.Second, 10*time.Millisecond)
}

// Joining takes several writes, each of which is slow if the disk of the store is. A
// member whose calls all end after a second would never join.
func TestTimeoutIncreasesWhileTheMemberCannotJoin(t *testing.T) {
	t.Parallel()
	joined := make(chan struct{})
	join := sync.OnceFunc(func() { close(joined) }) // a call whose response is lost is repeated
	r := &fakeRegistry{heartbeat: func(ctx context.Context) (*registryv1.HeartbeatResponse, error) {
		if deadline, _ := ctx.Deadline(); time.Until(deadline) < 1500*time.Millisecond {
			return nil, status.Error(codes.Unavailable, "the deadline is too short")
		}
		join()
		return &registryv1.HeartbeatResponse{Ttl: durationpb.New(time.Hour)}, nil
	}}
	registry := r.client(t)
	start(t, func(ctx context.Context) error {
		return cluster.NewAnnouncer(registry, cluster.Member{ID: "x", Role: cluster.CDN}, zap.NewNop()).Run(ctx)
	})
	select {
	case <-joined:
	case <-time.After(30 * time.Second):
		t.Fatal("the member does not join")
	}
}

func TestMemberThatIsNeverAcceptedLogsAWarning(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	r := &fakeRegistry{heartbeat: func(context.Context) (*registryv1.HeartbeatResponse, error) {
		return nil, status.Error(codes.InvalidArgument, "invalid id")
	}}
	registry := r.client(t)
	start(t, func(ctx context.Context) error {
		return cluster.NewAnnouncer(registry, cluster.Member{ID: "x", Role: cluster.CDN}, zap.New(core)).Run(ctx)
	})
	require.Eventually(t, func() bool { return logs.Len() > 0 }, 30*time.Second, 50*time.Millisecond)
}

func TestViewAsksAgainIfTheRegistrySendsNoList(t *testing.T) {
	t.Parallel()
	var calls atomic.Int32
	r := &fakeRegistry{watch: func(s registryv1.RegistryService_WatchMembersServer) error {
		if calls.Add(1) > 1 {
			if err := s.Send(&registryv1.WatchMembersResponse{Members: []*registryv1.Member{{Id: "s", Role: cluster.Scheduler}}}); err != nil {
				return err
			}
		}
		<-s.Context().Done()
		return s.Context().Err()
	}}
	view := cluster.NewView(r.client(t), zap.NewNop())
	start(t, view.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, view.Ready(ctx))
	_, found := view.Find(cluster.Scheduler, "s")
	require.True(t, found)
}

func TestUnavailableRegistryIsLoggedOnce(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.WarnLevel)
	var calls atomic.Int32
	r := &fakeRegistry{watch: func(registryv1.RegistryService_WatchMembersServer) error {
		calls.Add(1)
		return status.Error(codes.Unavailable, "unavailable")
	}}
	start(t, cluster.NewView(r.client(t), zap.New(core)).Run)
	require.Eventually(t, func() bool { return calls.Load() > 3 }, 30*time.Second, 10*time.Millisecond)
	require.Equal(t, 1, logs.Len())
}

// The lease is so long that without Drain the next heartbeat is due after 20 minutes.
func TestHeartbeatsSayDrainingAtOnceAndAfterDrain(t *testing.T) {
	t.Parallel()
	var ttl atomic.Int64
	ttl.Store(int64(time.Hour))
	r := &fakeRegistry{states: make(chan registryv1.MemberState, 100)}
	r.heartbeat = func(context.Context) (*registryv1.HeartbeatResponse, error) {
		return &registryv1.HeartbeatResponse{Ttl: durationpb.New(time.Duration(ttl.Load()))}, nil
	}
	a := cluster.NewAnnouncer(r.client(t), cluster.Member{ID: "x", Role: cluster.CDN}, zap.NewNop())
	start(t, a.Run)
	require.Equal(t, registryv1.MemberState_MEMBER_STATE_READY, <-r.states)
	ttl.Store(1)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, a.Drain(ctx))
	require.NoError(t, a.Drain(ctx), "a second call has no effect")
	for range 3 {
		require.Equal(t, registryv1.MemberState_MEMBER_STATE_DRAINING, <-r.states)
	}
}

func TestDrainWaitsUntilTheRegistryHasAcceptedIt(t *testing.T) {
	t.Parallel()
	var unavailable atomic.Bool
	unavailable.Store(true)
	r := &fakeRegistry{heartbeat: func(context.Context) (*registryv1.HeartbeatResponse, error) {
		if unavailable.Load() {
			return nil, status.Error(codes.Unavailable, "unavailable")
		}
		return &registryv1.HeartbeatResponse{Ttl: durationpb.New(time.Second)}, nil
	}}
	a := cluster.NewAnnouncer(r.client(t), cluster.Member{ID: "x", Role: cluster.CDN}, zap.NewNop())
	start(t, a.Run)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, a.Drain(ctx), context.DeadlineExceeded)
	unavailable.Store(false)
	ctx, cancel = context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, a.Drain(ctx))
}

func TestDrainMarkIsLoggedWhenItChanges(t *testing.T) {
	t.Parallel()
	core, logs := observer.New(zap.InfoLevel)
	var beats atomic.Int32
	r := &fakeRegistry{heartbeat: func(context.Context) (*registryv1.HeartbeatResponse, error) {
		n := beats.Add(1)
		return &registryv1.HeartbeatResponse{Ttl: durationpb.New(1), Drain: n > 1 && n < 4}, nil
	}}
	a := cluster.NewAnnouncer(r.client(t), cluster.Member{ID: "x", Role: cluster.CDN}, zap.New(core))
	start(t, a.Run)
	require.Eventually(t, func() bool { return beats.Load() > 5 }, 30*time.Second, 10*time.Millisecond)
	require.Len(t, logs.FilterField(zap.Bool("drain", true)).All(), 1)
	require.Len(t, logs.FilterField(zap.Bool("drain", false)).All(), 1)
}

func TestChangedIsClosedOnlyIfTheListChanges(t *testing.T) {
	t.Parallel()
	next := make(chan *registryv1.Member)
	r := &fakeRegistry{watch: func(s registryv1.RegistryService_WatchMembersServer) error {
		for {
			select {
			case m := <-next:
				if err := s.Send(&registryv1.WatchMembersResponse{Members: []*registryv1.Member{m}}); err != nil {
					return err
				}
			case <-s.Context().Done():
				return s.Context().Err()
			}
		}
	}}
	view := cluster.NewView(r.client(t), zap.NewNop())
	start(t, view.Run)
	ready, draining := registryv1.MemberState_MEMBER_STATE_READY, registryv1.MemberState_MEMBER_STATE_DRAINING
	first := view.Changed()
	next <- &registryv1.Member{Id: "s", Role: cluster.Scheduler, State: ready}
	<-first
	second := view.Changed()
	require.False(t, view.Schedulers()[0].Draining)
	next <- &registryv1.Member{Id: "s", Role: cluster.Scheduler, State: ready}
	next <- &registryv1.Member{Id: "s", Role: cluster.Scheduler, State: draining}
	<-second
	// The repeated member came first and did not close the channel.
	require.True(t, view.Schedulers()[0].Draining)
}
