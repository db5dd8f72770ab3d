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

// remember has the other scheduler tell of its task.
func (w *world) remember() {
	w.book.Take("other", &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{{
		TaskId: taskID, Anew: true, TaskUrl: "http://source/file", Source: &cdnv1.Source{Url: "http://source/file"},
		Facts:  &cdnv1.SourceFacts{Length: 2 * (size - 5), PieceSize: size},
		Pieces: []*cdnv1.Piece{{Num: 0, Md5: strings.Repeat("a", 32), Length: size}, {Num: 1, Md5: strings.Repeat("b", 32), Length: size}},
		Peers: []*schedulerv1.PeerMemory{
			{Peer: &schedulerv1.Peer{Id: "p", Ip: "127.0.1.1", Port: 20001}, Have: []uint64{1}, Serves: []uint64{1}},
			{Peer: &schedulerv1.Peer{Id: "whole", Ip: "127.0.1.2", Port: 20002, Path: "/peer/file/x"}, Have: []uint64{3}, Serves: []uint64{3}},
		},
	}}}, time.Now())
}

// What another scheduler told of its task before it died is known when the
// first pull comes: nobody has to register again.
func TestTaskOfADeadSchedulerGoesOnAsItKnewIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kill()
	w.remember()
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.Len(t, answer.Offers, 1)
	require.Equal(t, "whole", answer.Offers[0].SourceID, "those who had finished serve on")
	require.EqualValues(t, 1, answer.Offers[0].Num)
}

// One that was the standby before is not told when the task begins anew.
func TestMemoryOfAnotherVersionIsNoneOfTheTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kill()
	w.remember()
	w.become(&registryv1.TaskRecord{
		TaskId: taskID, Owner: "cdn", Scheduler: "me", Epoch: 3, PieceSize: size, Source: &registryv1.SourceIdentity{Length: 7},
	})
	_, err := w.pull("p", 0)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
}

// What the registry had last seen says nothing of a task that began anew since.
func TestMemoryCountsMoreThanARecordNobodyAgreesTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kill()
	w.remember()
	w.become(&registryv1.TaskRecord{
		TaskId: taskID, Owner: "cdn", Scheduler: "other", Epoch: 3, PieceSize: size, Source: &registryv1.SourceIdentity{Length: 7},
	})
	w.away.Store(true)
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.Len(t, answer.Offers, 1)
	require.True(t, w.book.Knows(taskID), "the other one may be found to have it, and to tell of it")
}

// Whoever has downloaded for minutes does not wait for a registry.
func TestRememberedTaskIsPulledWithoutARegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.remember()
	w.silent.Store(true)
	_, err := w.pull("p", 0)
	require.Equal(t, rpcerr.StoreUnavailable, rpcerr.ReasonOf(err), "its scheduler tells of it still")
	w.book.Ended("other", time.Now())
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.Len(t, answer.Offers, 1)
}

func TestWhichRecordIsOfAnotherVersion(t *testing.T) {
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
	require.False(t, differsFromRecord(record(11, size, "", ""), nil), "a memory without facts is of no version")
}

// A file that nobody had before is this scheduler's own business, also when it
// has just begun and may have forgotten some.
func TestNobodyIsAskedToRecallAFileWithoutRecord(t *testing.T) {
	t.Parallel()
	standby := &ears{}
	w := newWorld(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, standby) })
	w.become(nil)
	w.waits(func() bool { return w.asks.Load() > 0 })
	require.Zero(t, standby.recalled.Load())
}

// What it told before it was restarted the standby knows.
func TestStandbyIsAskedToRecallATaskOfOnesOwn(t *testing.T) {
	t.Parallel()
	standby := &ears{}
	w := newWorld(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, standby) })
	w.become(&registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: "me", Epoch: 3})
	_, err := w.register("p")
	require.NoError(t, err)
	require.EqualValues(t, 1, standby.recalled.Load())
}

// Without a memory it would be made without a registry, too.
func TestRememberedTaskIsRegisteredForWithoutARegistry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.remember()
	w.silent.Store(true)
	facts, err := w.register("late")
	require.NoError(t, err)
	require.EqualValues(t, size, facts.PieceSize)
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Offers)
	w.silent.Store(false)
	require.Eventually(t, func() bool { return w.manager.Count() == 0 }, patience, time.Millisecond, "it is the other's")
	w.requireSentToOther()
	require.True(t, w.book.Knows(taskID), "which tells of it still")
}

// The first of them makes the task of the memory, which is in it then.
func TestCrowdOfADeadSchedulerGoesOnAsItKnewIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kill()
	w.remember()
	w.asked = make(chan struct{})
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
	close(w.asked)
	for range cap(found) {
		require.NoError(t, <-found)
	}
	require.Equal(t, 1, w.manager.Count())
}

// With nothing but the record a task is made for a peer that nobody knows: it
// may fetch, and nobody is sent to it.
func TestStrangerIsAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kill()
	_, err := w.pull("stranger", 0)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
	w.adopt = true
	answer, err := w.pull("stranger", 0)
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
	require.True(t, answer.Offers[0].FromCDN, "nobody knows where the stranger is")
}

// One that is about to end would have the record name a dead scheduler again.
func TestTableThatIsHandedOverTakesNoTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.remember()
	require.NoError(t, w.manager.HandOver(t.Context()))
	_, err := w.pull("p", 0)
	require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(err), "it still says whose it is: %v", err)
	w.kill()
	_, err = w.pull("p", 0)
	require.Equal(t, codes.Unavailable, rpcerr.From(err).Code, "%v", err)
	require.Equal(t, "other", w.recorded().GetScheduler())
}
