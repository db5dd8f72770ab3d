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

// fakeStandby answers the calls that the manager sends to a standby.
type fakeStandby struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	reachesNoCDN   atomic.Bool
	reachableCalls atomic.Int64
	recallCalls    atomic.Int64
}

func (e *fakeStandby) Recall(*schedulerv1.RecallRequest, schedulerv1.SchedulerService_RecallServer) error {
	e.recallCalls.Add(1)
	return nil // it has no state
}

func (e *fakeStandby) ListReachable(context.Context, *schedulerv1.ListReachableRequest) (*schedulerv1.ListReachableResponse, error) {
	e.reachableCalls.Add(1)
	if e.reachesNoCDN.Load() {
		return &schedulerv1.ListReachableResponse{}, nil
	}
	return &schedulerv1.ListReachableResponse{CdnIds: []string{"cdn"}}, nil
}

// newClusterWithoutCDN starts a cluster in which this scheduler owns the task and the
// only CDN does not answer.
func newClusterWithoutCDN(t *testing.T) (*testCluster, *fakeStandby) {
	t.Helper()
	standby := &fakeStandby{}
	w := newTestCluster(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, standby) })
	w.setRecord(&registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: "me", Epoch: 3})
	w.killCDN()
	require.Eventually(t, func() bool { return w.manager.deps.Reachability.Isolated(t.Context()) }, testTimeout, time.Millisecond)
	return w, standby
}

func (w *testCluster) setRecord(r *registryv1.TaskRecord) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.record = r
}

func (w *testCluster) currentRecord() *registryv1.TaskRecord {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.record
}

// registerUntil registers a peer and cancels the registration, which waits for the
// facts, once the condition holds.
func (w *testCluster) registerUntil(until func() bool) {
	w.t.Helper()
	ctx, leave := context.WithCancel(w.t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := w.manager.Register(ctx, taskID, "http://source/file", follower.Source{URL: "http://source/file"}, swarm.PeerInfo{ID: "waits", IP: "127.0.1.9"})
		ended <- err
	}()
	require.Eventually(w.t, until, testTimeout, time.Millisecond)
	leave()
	require.ErrorIs(w.t, <-ended, context.Canceled, "the registration waits for the CDN")
}

func (w *testCluster) requireRedirectedToOther() {
	w.t.Helper()
	_, err := w.register("p")
	require.Equal(w.t, rpcerr.NotOwner, rpcerr.ReasonOf(err), "%v", err)
	require.Equal(w.t, w.other.Endpoint, rpcerr.From(err).Metadata["endpoint"])
}

func TestTaskIsYieldedToAStandbyThatReachesACDN(t *testing.T) {
	t.Parallel()
	w, _ := newClusterWithoutCDN(t)
	w.requireRedirectedToOther()
	require.Equal(t, "other", w.currentRecord().GetScheduler())
	require.EqualValues(t, 4, w.currentRecord().GetEpoch())
	w.requireRedirectedToOther() // the record does not change again
	require.EqualValues(t, 4, w.currentRecord().GetEpoch())
}

// The standby creates the record.
func TestTaskWithoutRecordIsYieldedToAStandbyThatReachesACDN(t *testing.T) {
	t.Parallel()
	w, _ := newClusterWithoutCDN(t)
	w.setRecord(nil)
	w.requireRedirectedToOther()
	require.Nil(t, w.currentRecord())
}

func TestTaskIsKeptWhenTheStandbyReachesNoCDNEither(t *testing.T) {
	t.Parallel()
	w, standby := newClusterWithoutCDN(t)
	standby.reachesNoCDN.Store(true)
	w.registerUntil(func() bool { return standby.reachableCalls.Load() >= 2 })
	require.Equal(t, "me", w.currentRecord().GetScheduler())
	standby.reachesNoCDN.Store(false)
	w.requireRedirectedToOther()
}

func TestTaskIsKeptWhileTheStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	w, standby := newClusterWithoutCDN(t)
	w.storeDown.Store(true)
	// The handover is tried, but it does not count without the store: redirected
	// clients must find the record at the standby.
	w.registerUntil(func() bool { return w.otherResolves.Load() > 0 && standby.reachableCalls.Load() >= 2 })
	require.Equal(t, "me", w.currentRecord().GetScheduler())
	w.storeDown.Store(false)
	w.requireRedirectedToOther()
}
