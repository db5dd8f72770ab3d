package resolver

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func TestTaskOfAnAnsweringSchedulerIsRefusedWithNotOwner(t *testing.T) {
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

// A scheduler that has just joined is alive, but it is not in this scheduler's list of
// members yet.
func TestSchedulerThatIsMissingInTheListOfMembersKeepsItsTask(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.FindScheduler = func(string) (cluster.Member, bool) { return cluster.Member{}, false }
	requireNotOwner(t, w, w.acquire(t.Context()))
	_, err := w.resolveFirst(t)
	requireNotOwner(t, w, err)
	require.Zero(t, w.takeovers.Load())
}

// A process that is stopping cannot ping: that does not prove that others are dead.
func TestClosedResolverTakesOverNoTask(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.Close()
	requireNotOwner(t, w, w.acquire(t.Context()))
	require.Zero(t, w.takeovers.Load())
}

func TestStoppingSchedulerTakesOverNoTask(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.leaving.Store(true)
	requireNotOwner(t, w, w.acquire(t.Context()))
	w.kill()
	err := w.acquire(t.Context())
	require.Equal(t, codes.Unavailable, rpcerr.From(err).Code, "%v", err)
	require.Empty(t, rpcerr.ReasonOf(err), "the registry has answered")
	require.Zero(t, w.takeovers.Load())
	w.leaving.Store(false)
	requireAcquired(t, w)
}

func TestSchedulerThatLosesTheRaceForATaskReturnsTheWinner(t *testing.T) {
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

func TestTaskOfADeadSchedulerIsTakenOverUnclaimedWhileTheStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	inner := w.resolve
	w.resolve = func(req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		req.LostScheduler = "" // the store cannot record a takeover
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
	w.resolve = inner // the store is available again, and the other scheduler is still a member
	again, err := w.Resolve(t.Context(), Task{ID: taskID, URL: ""}, c, Lost{})
	require.NoError(t, err)
	require.EqualValues(t, 4, again.Epoch)
	requireAcquired(t, w)
}

func TestClaimedTaskIsNotTakenBackFromAnotherScheduler(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.kill() // it does not answer this scheduler
	claimed := Claim{Epoch: 2, record: &registryv1.TaskRecord{TaskId: taskID, Owner: "a", Scheduler: "me", Epoch: 2}}
	_, err := w.Resolve(t.Context(), Task{ID: taskID, URL: ""}, claimed, Lost{})
	requireNotOwner(t, w, err)
}

func TestAcquireDistinguishesAMissingRecordFromAFailedRegistry(t *testing.T) {
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

func TestConcurrentAcquireCallsShareOneLookup(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.kill()
	blocked := make(chan struct{})
	inner := w.get
	w.get = func() (*registryv1.GetTaskResponse, error) { <-blocked; return inner() }
	answers := make(chan error, 50)
	var work sync.WaitGroup
	ask := func() { work.Go(func() { answers <- w.acquire(t.Context()) }) }
	ask()
	require.Eventually(t, func() bool { return w.getCalls.Load() == 1 }, testTimeout, time.Millisecond)
	for range cap(answers) - 1 {
		ask()
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, w.acquire(canceled), context.Canceled)
	close(blocked)
	work.Wait()
	close(answers)
	for err := range answers {
		require.NoError(t, err)
	}
	require.Less(t, w.getCalls.Load(), int64(cap(answers)))
}
