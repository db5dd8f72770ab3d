package resolver

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpchealth "google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 20 * time.Second

var taskID = strings.Repeat("0a", 32)

// testCluster is a registry that does as told, and another scheduler.
type testCluster struct {
	registryv1.UnimplementedRegistryServiceServer
	*Resolver
	get       func() (*registryv1.GetTaskResponse, error)
	resolve   func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error)
	getCalls  atomic.Int64
	takeovers atomic.Int64
	members   []cluster.Member
	// other is a scheduler that answers pings until it is killed; it is a
	// member unless left says otherwise.
	other cluster.Member
	kill  func()
	left  atomic.Bool
	// leaving says that this scheduler is about to end.
	leaving atomic.Bool
}

func (w *testCluster) mayTake() bool { return !w.leaving.Load() }

func (w *testCluster) GetTask(context.Context, *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	w.getCalls.Add(1)
	resp, err := w.get()
	return resp, rpcerr.Status(err).Err()
}

func (w *testCluster) ResolveTask(_ context.Context, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	resp, err := w.resolve(req)
	return resp, rpcerr.Status(err).Err()
}

func newTestCluster(t *testing.T) *testCluster {
	t.Helper()
	w := &testCluster{members: []cluster.Member{{ID: "a", Endpoint: "127.0.0.1:1"}, {ID: "b", Endpoint: "127.0.0.1:2"}}}
	registry, _ := rpctest.Serve(t, func(g *grpc.Server) { registryv1.RegisterRegistryServiceServer(g, w) })
	w.other.ID = "other"
	w.other.Endpoint, w.kill = rpctest.Serve(t, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, grpchealth.NewServer()) })
	pool := rpcclient.NewPool("", nil)
	conn, err := pool.Dial(registry)
	require.NoError(t, err)
	monitor := health.New(health.Default(), pool.Dial, zap.NewNop())
	w.Resolver = New(Deps{
		SelfID: "me", Registry: registryv1.NewRegistryServiceClient(conn), Schedulers: monitor, Log: zap.NewNop(),
		CDNs:          func() []cluster.Member { return w.members },
		FindScheduler: func(string) (cluster.Member, bool) { return w.other, !w.left.Load() },
		TookOver:      func() { w.takeovers.Add(1) },
	})
	t.Cleanup(func() {
		monitor.Close()
		require.NoError(t, pool.Close())
	})
	return w
}

// assignToOther makes the registry tell of a record of the other scheduler, which
// it gives to who says that that one is lost.
func (w *testCluster) assignToOther(epoch int64) {
	record := &registryv1.TaskRecord{TaskId: taskID, Owner: "a", Scheduler: "other", Epoch: epoch}
	w.get = func() (*registryv1.GetTaskResponse, error) { return &registryv1.GetTaskResponse{Record: record}, nil }
	w.resolve = func(req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		resp := &registryv1.ResolveTaskResponse{
			Record: record, Owner: &registryv1.Member{Id: "a"}, Scheduler: &registryv1.Member{Id: "other", Endpoint: w.other.Endpoint},
		}
		if w.left.Load() {
			resp.Scheduler = nil
		}
		lost := req.GetLostScheduler() == "other" && req.GetLast().GetEpoch() == epoch
		if lost || w.left.Load() && req.GetLast() != nil {
			resp.Record = &registryv1.TaskRecord{TaskId: taskID, Owner: "a", Scheduler: "me", Epoch: epoch + 1}
			resp.Scheduler = &registryv1.Member{Id: "me"}
		}
		return resp, nil
	}
}

// acquire gives the error of Acquire.
func (w *testCluster) acquire(ctx context.Context) error {
	_, err := w.Acquire(ctx, taskID, w.mayTake)
	return err
}

// requireAcquired requires that the task is this scheduler's by now.
func requireAcquired(t *testing.T, w *testCluster) {
	t.Helper()
	assignment, err := w.Acquire(t.Context(), taskID, w.mayTake)
	require.NoError(t, err)
	require.Equal(t, taskID, assignment.Record.GetTaskId())
}

func (w *testCluster) resolveFirst(t *testing.T) (Claim, error) {
	t.Helper()
	return w.Resolve(t.Context(), taskID, "http://source/file", Claim{}, Lost{})
}

func requireNotOwner(t *testing.T, w *testCluster, err error) {
	t.Helper()
	e := rpcerr.From(err)
	require.Equal(t, rpcerr.NotOwner, e.Reason, "%v", err)
	require.Equal(t, "other", e.Metadata["scheduler_id"])
	require.Equal(t, w.other.Endpoint, e.Metadata["endpoint"])
}

func TestTaskOfASchedulerThatAnswersIsItsOwn(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	requireNotOwner(t, w, w.acquire(t.Context()))
	_, err := w.resolveFirst(t)
	requireNotOwner(t, w, err)
	require.Zero(t, w.takeovers.Load())
}

func TestTaskOfADeadSchedulerIsTakenOver(t *testing.T) {
	t.Parallel()
	for name, die := range map[string]func(*testCluster){
		"does not answer": func(w *testCluster) { w.kill() },
		"has left":        func(w *testCluster) { w.left.Store(true) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTestCluster(t)
			w.assignToOther(3)
			die(w)
			c, err := w.resolveFirst(t)
			require.NoError(t, err)
			require.EqualValues(t, 4, c.Epoch)
			requireAcquired(t, w)
			require.EqualValues(t, 2, w.takeovers.Load())
		})
	}
}

// One that has just joined is no member here yet, and alive.
func TestSchedulerThatIsNotKnownYetKeepsItsTask(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.FindScheduler = func(string) (cluster.Member, bool) { return cluster.Member{}, false }
	requireNotOwner(t, w, w.acquire(t.Context()))
	_, err := w.resolveFirst(t)
	requireNotOwner(t, w, err)
	require.Zero(t, w.takeovers.Load())
}

// A process that ends cannot ping any more: that proves nothing of others.
func TestSchedulerThatEndsTakesNothing(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.Close()
	requireNotOwner(t, w, w.acquire(t.Context()))
	require.Zero(t, w.takeovers.Load())
}

func TestSchedulerThatIsToldToStopTakesNothing(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.leaving.Store(true)
	requireNotOwner(t, w, w.acquire(t.Context()))
	w.kill()
	err := w.acquire(t.Context())
	require.Equal(t, codes.Unavailable, rpcerr.From(err).Code, "%v", err)
	require.Empty(t, rpcerr.ReasonOf(err), "the registry did say whose it is")
	require.Zero(t, w.takeovers.Load())
	w.leaving.Store(false)
	requireAcquired(t, w)
}

func TestWhoLosesTheRaceForADeadSchedulersTaskSaysWhoWon(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	inner := w.resolve
	w.resolve = func(req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		resp, err := inner(req)
		if req.GetLostScheduler() != "" {
			resp.Record.Scheduler, resp.Scheduler = "third", &registryv1.Member{Id: "third", Endpoint: "127.0.0.3:1"}
		}
		return resp, err
	}
	w.kill()
	_, err := w.resolveFirst(t)
	for _, err := range []error{err, w.acquire(t.Context())} {
		require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(err))
		require.Equal(t, "127.0.0.3:1", rpcerr.From(err).Metadata["endpoint"])
	}
	require.Zero(t, w.takeovers.Load())
}

func TestStoreThatIsAwayDoesNotSaveADeadScheduler(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	inner := w.resolve
	w.resolve = func(req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		req.LostScheduler = "" // nothing can be claimed
		resp, err := inner(req)
		resp.Unclaimed = true
		return resp, err
	}
	_, err := w.resolveFirst(t)
	requireNotOwner(t, w, err)
	w.kill()
	c, err := w.resolveFirst(t)
	require.NoError(t, err)
	require.True(t, c.Unclaimed)
	w.resolve = inner // it is back, and the other is a member still
	again, err := w.Resolve(t.Context(), taskID, "", c, Lost{})
	require.NoError(t, err)
	require.EqualValues(t, 4, again.Epoch)
	requireAcquired(t, w)
}

func TestWhoHadATaskDoesNotTakeItBack(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.kill() // as seen from here
	had := Claim{Epoch: 2, record: &registryv1.TaskRecord{TaskId: taskID, Owner: "a", Scheduler: "me", Epoch: 2}}
	_, err := w.Resolve(t.Context(), taskID, "", had, Lost{})
	requireNotOwner(t, w, err)
}

func TestWhoseIsNobodysSecret(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	for want, get := range map[rpcerr.Reason]func() (*registryv1.GetTaskResponse, error){
		rpcerr.TaskNotFound:     func() (*registryv1.GetTaskResponse, error) { return nil, rpcerr.New(codes.NotFound, "", "") },
		rpcerr.StoreUnavailable: func() (*registryv1.GetTaskResponse, error) { return nil, rpcerr.New(codes.Internal, "", "") },
	} {
		w.get = get
		require.Equal(t, want, rpcerr.ReasonOf(w.acquire(t.Context())))
	}
	w.get = func() (*registryv1.GetTaskResponse, error) {
		return &registryv1.GetTaskResponse{Record: &registryv1.TaskRecord{TaskId: taskID, Scheduler: "me"}}, nil
	}
	requireAcquired(t, w)
	require.Empty(t, w.lookups.inFlight)
}

func TestCrowdOfADeadSchedulerAsksOnce(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.kill()
	held := make(chan struct{})
	inner := w.get
	w.get = func() (*registryv1.GetTaskResponse, error) { <-held; return inner() }
	answers := make(chan error, 50)
	var work sync.WaitGroup
	ask := func() { work.Go(func() { answers <- w.acquire(t.Context()) }) }
	ask()
	require.Eventually(t, func() bool { return w.getCalls.Load() == 1 }, testTimeout, time.Millisecond)
	for range cap(answers) - 1 {
		ask()
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	require.ErrorIs(t, w.acquire(gone), context.Canceled)
	close(held)
	work.Wait()
	close(answers)
	for err := range answers {
		require.NoError(t, err)
	}
	require.Less(t, w.getCalls.Load(), int64(cap(answers)))
}

func TestWithoutARegistryTheLastClaimGoesOn(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.resolve = func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return nil, rpcerr.New(codes.Unavailable, "", "nobody is there")
	}
	last := Claim{Epoch: 2, Owner: w.members[0], record: &registryv1.TaskRecord{Owner: "a", Epoch: 2}}
	c, err := w.Resolve(t.Context(), taskID, "", last, Lost{Owner: "a"})
	require.NoError(t, err)
	require.True(t, c.Unclaimed)
	require.Equal(t, "a", c.Owner.ID, "only the registry gives what is claimed to another")
}

func TestWithoutARegistryAllTakeTheSameCDN(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.resolve = func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return nil, rpcerr.New(codes.Unavailable, "", "nobody is there")
	}
	want, _ := ring.First(taskID, []ring.Node{{ID: "a"}, {ID: "b"}})
	c, err := w.Resolve(t.Context(), taskID, "http://me:secret@source/file#part", Claim{}, Lost{})
	require.NoError(t, err)
	require.Equal(t, want, c.Owner.ID)
	require.Zero(t, c.Epoch)
	require.Equal(t, "http://source/file", c.record.GetUrl())
	other, err := w.Resolve(t.Context(), taskID, "", c, Lost{Owner: want})
	require.NoError(t, err)
	require.NotEqual(t, want, other.Owner.ID)
	_, err = w.Resolve(t.Context(), taskID, "", other, Lost{Owner: "a", Excluded: []string{"b"}})
	require.Error(t, err)
	for i := range w.members {
		w.members[i].Draining = true
	}
	_, err = w.resolveFirst(t)
	require.Equal(t, rpcerr.NoCDN, rpcerr.ReasonOf(err))
}
