package taskmanager

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// ears is what a standby says of the CDNs that it hears.
type ears struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	deaf     atomic.Bool
	asked    atomic.Int64
	recalled atomic.Int64
}

func (e *ears) Recall(*schedulerv1.RecallRequest, schedulerv1.SchedulerService_RecallServer) error {
	e.recalled.Add(1)
	return nil // it knows nothing
}

func (e *ears) ListReachable(context.Context, *schedulerv1.ListReachableRequest) (*schedulerv1.ListReachableResponse, error) {
	e.asked.Add(1)
	if e.deaf.Load() {
		return &schedulerv1.ListReachableResponse{}, nil
	}
	return &schedulerv1.ListReachableResponse{CdnIds: []string{"cdn"}}, nil
}

// deafWorld is one in which this scheduler has the task, and its only CDN does
// not answer it.
func deafWorld(t *testing.T) (*world, *ears) {
	t.Helper()
	standby := &ears{}
	w := newWorld(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, standby) })
	w.become(&registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: "me", Epoch: 3})
	w.killCDN()
	require.Eventually(t, func() bool { return w.manager.deps.Reach.Deaf(t.Context()) }, patience, time.Millisecond)
	return w, standby
}

func (w *world) become(r *registryv1.TaskRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record = r
}

func (w *world) recorded() *registryv1.TaskRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record
}

// waits registers a peer that nobody can serve.
func (w *world) waits(until func() bool) {
	w.t.Helper()
	ctx, leave := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.manager.Register(ctx, taskID, "http://source/file", follower.Source{URL: "http://source/file"}, swarm.PeerInfo{ID: "waits", IP: "127.0.1.9"})
		ended <- err
	}()
	require.Eventually(w.t, until, patience, time.Millisecond)
	leave()
	require.ErrorIs(w.t, <-ended, context.Canceled, "it waits for the CDN")
}

func (w *world) requireSentToOther() {
	w.t.Helper()
	_, err := w.register("p")
	require.Equal(w.t, rpcerr.NotOwner, rpcerr.ReasonOf(err), "%v", err)
	require.Equal(w.t, w.other.Endpoint, rpcerr.From(err).Metadata["endpoint"])
}

func TestTaskGoesToTheStandbyThatHearsACDN(t *testing.T) {
	t.Parallel()
	w, _ := deafWorld(t)
	w.requireSentToOther()
	require.Equal(t, "other", w.recorded().GetScheduler())
	require.EqualValues(t, 4, w.recorded().GetEpoch())
	w.requireSentToOther() // and it stays there
	require.EqualValues(t, 4, w.recorded().GetEpoch())
}

// Whoever answers for a task that has no record yet makes it.
func TestTaskWithoutRecordGoesToTheStandbyThatHearsACDN(t *testing.T) {
	t.Parallel()
	w, _ := deafWorld(t)
	w.become(nil)
	w.requireSentToOther()
	require.Nil(t, w.recorded())
}

func TestTaskStaysWhereTheStandbyHearsNobodyEither(t *testing.T) {
	t.Parallel()
	w, standby := deafWorld(t)
	standby.deaf.Store(true)
	w.waits(func() bool { return standby.asked.Load() >= 2 })
	require.Equal(t, "me", w.recorded().GetScheduler())
	standby.deaf.Store(false)
	w.requireSentToOther()
}

func TestTaskStaysWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	w, standby := deafWorld(t)
	w.away.Store(true)
	// It is tried, and not believed: whoever is sent to the standby must find the record there.
	w.waits(func() bool { return w.given.Load() > 0 && standby.asked.Load() >= 2 })
	require.Equal(t, "me", w.recorded().GetScheduler())
	w.away.Store(false)
	w.requireSentToOther()
}
