package table

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
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
	require.Eventually(t, func() bool { return w.table.Count() == 0 }, patience, time.Millisecond, "it is the other's")
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
			_, err := w.table.Get(t.Context(), taskID, false)
			found <- err
		}()
	}
	began.Wait()
	close(w.asked)
	for range cap(found) {
		require.NoError(t, <-found)
	}
	require.Equal(t, 1, w.table.Count())
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
	require.NoError(t, w.table.HandOver(t.Context()))
	_, err := w.pull("p", 0)
	require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(err), "it still says whose it is: %v", err)
	w.kill()
	_, err = w.pull("p", 0)
	require.Equal(t, codes.Unavailable, rpcerr.From(err).Code, "%v", err)
	require.Equal(t, "other", w.recorded().GetScheduler())
}
