package taskmanager

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// replicate makes the other scheduler replicate the task's state.
func (w *testCluster) replicate() {
	w.standbyStore.Apply("other", &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{{
		TaskId: taskID, Anew: true, TaskUrl: "http://source/file", Source: &cdnv1.Source{Url: "http://source/file"},
		Facts:  &cdnv1.SourceFacts{Length: 2 * (size - 5), PieceSize: size},
		Pieces: []*cdnv1.Piece{{Num: 0, Md5: strings.Repeat("a", 32), Length: size}, {Num: 1, Md5: strings.Repeat("b", 32), Length: size}},
		Peers: []*schedulerv1.PeerMemory{
			{Peer: &schedulerv1.Peer{Id: "p", Ip: "127.0.1.1", Port: 20001}, Have: []uint64{1}, Serves: []uint64{1}},
			{Peer: &schedulerv1.Peer{Id: "complete", Ip: "127.0.1.2", Port: 20002, Path: "/peer/file/x"}, Have: []uint64{3}, Serves: []uint64{3}},
		},
	}}}, time.Now())
}

func TestTakeoverRestoresTheReplicatedState(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.kill()
	w.replicate()
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.Len(t, answer.Offers, 1)
	require.Equal(t, "complete", answer.Offers[0].SourceID, "a finished peer is offered as a source")
	require.EqualValues(t, 1, answer.Offers[0].Num)
}

// A former standby receives no update when a task starts from scratch.
func TestTakeoverIgnoresReplicatedStateOfAnotherVersion(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.kill()
	w.replicate()
	w.setRecord(&registryv1.TaskRecord{
		TaskId: taskID, Owner: "cdn", Scheduler: "me", Epoch: 3, PieceSize: size, Source: &registryv1.SourceIdentity{Length: 7},
	})
	_, err := w.pull("p", 0)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
}

// The unclaimed record may be older than the replicated state.
func TestTakeoverPrefersReplicatedStateToAnUnclaimedRecord(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.kill()
	w.replicate()
	w.setRecord(&registryv1.TaskRecord{
		TaskId: taskID, Owner: "cdn", Scheduler: "other", Epoch: 3, PieceSize: size, Source: &registryv1.SourceIdentity{Length: 7},
	})
	w.storeDown.Store(true)
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.Len(t, answer.Offers, 1)
	require.True(t, w.standbyStore.Has(taskID), "the other scheduler may turn out to own the task and to replicate it")
}

func TestPullRestoresAnOrphanedTaskWithoutARegistry(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.replicate()
	w.registryDown.Store(true)
	_, err := w.pull("p", 0)
	require.Equal(t, rpcerr.StoreUnavailable, rpcerr.ReasonOf(err), "its scheduler still replicates it")
	w.standbyStore.EndStream("other", time.Now())
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.Len(t, answer.Offers, 1)
}

func TestRecordWithOtherPropertiesIsOfAnotherVersion(t *testing.T) {
	facts := swarm.Facts{Length: 10, PieceSize: size, ETag: `"1"`, LastModified: "a"}
	record := func(length int64, pieceSize int32, etag, modified string) *registryv1.TaskRecord {
		return &registryv1.TaskRecord{PieceSize: pieceSize, Source: &registryv1.SourceIdentity{Length: length, Etag: etag, LastModified: modified}}
	}
	for name, r := range map[string]*registryv1.TaskRecord{
		"the same": record(10, size, `"1"`, "a"), "no record": nil, "nothing known": {},
		"no length yet": record(-1, size, "", ""), "no validators": record(10, size, "", ""),
	} {
		require.False(t, differsFromRecord(r, &facts), name)
	}
	for name, r := range map[string]*registryv1.TaskRecord{
		"length": record(11, size, `"1"`, "a"), "piece size": record(10, size+1, `"1"`, "a"),
		"etag": record(10, size, `"2"`, "a"), "time": record(10, size, "", "b"),
	} {
		require.True(t, differsFromRecord(r, &facts), name)
	}
	require.False(t, differsFromRecord(record(11, size, "", ""), nil), "a state without facts has no version")
}

// Without a record no scheduler has had the task, so there is nothing to recall even
// right after a restart.
func TestStandbyIsNotAskedForATaskWithoutRecord(t *testing.T) {
	t.Parallel()
	standby := &fakeStandby{}
	w := newTestCluster(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, standby) })
	w.setRecord(nil)
	w.registerUntil(func() bool { return w.resolves.Load() > 0 })
	require.Zero(t, standby.recallCalls.Load())
}

func TestRestartedSchedulerRecallsItsTaskFromTheStandby(t *testing.T) {
	t.Parallel()
	standby := &fakeStandby{}
	w := newTestCluster(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, standby) })
	w.setRecord(&registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: "me", Epoch: 3})
	_, err := w.register("p")
	require.NoError(t, err)
	require.EqualValues(t, 1, standby.recallCalls.Load())
}

func TestRegisterRestoresAReplicatedTaskWithoutARegistry(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.replicate()
	w.registryDown.Store(true)
	facts, err := w.register("late")
	require.NoError(t, err)
	require.EqualValues(t, size, facts.PieceSize)
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Offers)
	w.registryDown.Store(false)
	require.Eventually(t, func() bool { return w.manager.Count() == 0 }, testTimeout, time.Millisecond, "the other scheduler owns it")
	w.requireRedirectedToOther()
	require.True(t, w.standbyStore.Has(taskID), "its replication stream is still open")
}

// The first call uses up the replicated state; the others must find its task.
func TestConcurrentTakeoversCreateOneTask(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.kill()
	w.replicate()
	w.blockGetTask = make(chan struct{})
	found := make(chan error, 100)
	var began sync.WaitGroup
	for range cap(found) {
		began.Add(1)
		go func() {
			began.Done()
			_, err := w.manager.Get(t.Context(), taskID, false)
			found <- err
		}()
	}
	began.Wait()
	close(w.blockGetTask)
	for range cap(found) {
		require.NoError(t, <-found)
	}
	require.Equal(t, 1, w.manager.Count())
}

// If there is only the record, the task is created for the unknown peer, which may
// download but is not offered as a source.
func TestUnknownPeerIsAdoptedButNotOfferedAsASource(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.kill()
	_, err := w.pull("unknown", 0)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
	w.adopt = true
	answer, err := w.pull("unknown", 0)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Offers)
	for _, o := range answer.Offers {
		require.True(t, o.FromCDN)
	}
	_, err = w.register("p")
	require.NoError(t, err)
	answer, err = w.pull("p", 1)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Offers)
	require.True(t, answer.Offers[0].FromCDN, "the address of the adopted peer is unknown")
}

// Otherwise the record would name a scheduler that is about to end.
func TestManagerThatHandsOverTakesOverNoTask(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.replicate()
	require.NoError(t, w.manager.HandOver(t.Context()))
	_, err := w.pull("p", 0)
	require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(err), "calls are still redirected: %v", err)
	w.kill()
	_, err = w.pull("p", 0)
	require.Equal(t, codes.Unavailable, rpcerr.From(err).Code, "%v", err)
	require.Equal(t, "other", w.currentRecord().GetScheduler())
}
