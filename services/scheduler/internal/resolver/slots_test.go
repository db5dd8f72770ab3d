package resolver

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
)

// A shared pool would fail this: a slot of a request that hangs is free again only after
// requestTimeout, which is longer than Acquire waits.
func TestTakeoverDoesNotWaitForNewTasksThatHang(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.assignToOther(3)
	w.kill()
	inner := w.resolve
	blocked := make(chan struct{})
	var hanging atomic.Int64
	w.resolve = func(req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		if req.GetTaskId() != taskID {
			hanging.Add(1)
			<-blocked
		}
		return inner(req)
	}
	flood, stop := context.WithCancel(t.Context())
	var work sync.WaitGroup
	defer func() { stop(); close(blocked); work.Wait() }()
	for i := range 2 * maxRequests {
		work.Go(func() {
			for flood.Err() == nil { // all slots stay taken
				_, _ = w.Resolve(flood, Task{ID: fmt.Sprintf("%064x", i)}, Claim{}, Lost{})
			}
		})
	}
	require.Eventually(t, func() bool { return hanging.Load() >= maxRequests && len(w.newTasks) == maxRequests }, testTimeout, time.Millisecond)
	requireAcquired(t, w)
	require.EqualValues(t, 1, w.takeovers.Load())

	// The task that was taken over is resolved as well, and so is one whose owner dies.
	c, err := w.Resolve(t.Context(), Task{ID: taskID, Resumed: true}, Claim{}, Lost{})
	require.NoError(t, err)
	require.Equal(t, "a", c.Owner.ID)
	_, err = w.Resolve(t.Context(), Task{ID: taskID}, Claim{Unclaimed: true, record: c.record}, Lost{Owner: "a"})
	require.NoError(t, err)
}

// gauge counts the requests that read a record.
type gauge struct {
	registryv1.RegistryServiceClient
	mu        sync.Mutex // guards now and most
	now, most int
}

func (g *gauge) add(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += n
	g.most = max(g.most, g.now)
}

func (g *gauge) GetTask(ctx context.Context, req *registryv1.GetTaskRequest, opts ...grpc.CallOption) (*registryv1.GetTaskResponse, error) {
	g.add(1)
	defer g.add(-1)
	return g.RegistryServiceClient.GetTask(ctx, req, opts...)
}

func TestLookupsAreBounded(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	g := &gauge{RegistryServiceClient: w.Registry}
	w.Registry = g
	blocked := make(chan struct{})
	w.get = func() (*registryv1.GetTaskResponse, error) {
		<-blocked
		return &registryv1.GetTaskResponse{Record: &registryv1.TaskRecord{Scheduler: "me"}}, nil
	}
	var work sync.WaitGroup
	for i := range 4 * maxRequests {
		work.Go(func() { _, _ = w.Acquire(t.Context(), fmt.Sprintf("%064x", i), w.mayTake) })
	}
	require.Eventually(t, func() bool { return w.getCalls.Load() >= maxRequests }, testTimeout, time.Millisecond)
	close(blocked)
	work.Wait()
	require.Equal(t, maxRequests, g.most)
	require.Empty(t, w.reads, "every slot is released")
	w.assignToOther(3)
	requireNotOwner(t, w, w.acquire(t.Context()))
}
