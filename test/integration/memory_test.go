package integration

import (
	"testing"

	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// finishedAtFirst is two schedulers that know of each other, and a peer that has
// a whole file through the first.
func finishedAtFirst(t *testing.T) (w *world, first, second *desk, a *peer) {
	t.Helper()
	w, first, content := served(t)
	second = w.addScheduler("s2", patient())
	sees(t, second.view, cluster.Scheduler, "s1")
	sees(t, first.view, cluster.Scheduler, "s2")
	return w, first, second, finished(t, w, first, content)
}

// finished gives a peer that has the whole file of a world through a scheduler.
func finished(t *testing.T, w *world, d *desk, content []byte) *peer {
	t.Helper()
	a := newPeer(t, d, "a", w.origin.URL("/f"))
	a.port = 20001
	a.mustRegister()
	a.finish(content)
	return a
}

// When a scheduler dies its standby knows who has which piece: the pull that
// finds out is answered from peers that finished long ago, and nobody has to
// register again.
func TestStandbyGoesOnWithTheMemory(t *testing.T) {
	t.Parallel()
	w, first, second, _ := finishedAtFirst(t)
	b := newPeer(t, first, "b", w.origin.URL("/f"))
	b.port = 20002
	b.mustRegister()
	first.mirrored(t, second)

	first.stop()
	b.desk = second
	_, err := b.pull()
	require.NoError(t, err)
	require.Len(t, b.offers, 1, "a source sends one piece at first")
	require.Equal(t, "a", b.offers[0].GetPeerId())
	list, err := second.ListPeers(t.Context(), &schedulerv1.ListPeersRequest{Limit: 10})
	require.NoError(t, err)
	require.Len(t, list.GetEntries(), 1)
	require.Equal(t, []int32{0, 1, 2}, list.GetEntries()[0].GetPieces())
	require.EqualValues(t, 1, w.origin.Stats("/f").Bodies)
}

// One that ends without handing anything over and is back at once, under its
// name, has nothing in its memory, and the record says that the task is its own:
// the standby knows.
func TestSchedulerThatRestartsGetsItsMemoryBack(t *testing.T) {
	t.Parallel()
	w, first, second, a := finishedAtFirst(t)
	first.mirrored(t, second)
	first.stop()
	again := w.addScheduler("s1", patient())
	sees(t, again.view, cluster.Scheduler, "s2")

	late := newPeer(t, again, "late", w.origin.URL("/f"))
	late.mustRegister()
	_, err := late.pull()
	require.NoError(t, err)
	require.NotEmpty(t, late.offers)
	require.Equal(t, "a", late.offers[0].GetPeerId())
	record, err := w.client(again.node).GetTask(t.Context(), getTask(a.task))
	require.NoError(t, err)
	require.Equal(t, "s1", record.GetRecord().GetScheduler())
}

// A standby that is new gets all there is.
func TestNewStandbyIsToldEverything(t *testing.T) {
	t.Parallel()
	w, first, content := served(t)
	finished(t, w, first, content)
	second := w.addScheduler("s2", patient())
	sees(t, first.view, cluster.Scheduler, "s2")
	first.mirrored(t, second)
	first.stop()
	b := newPeer(t, second, "b", w.origin.URL("/f"))
	b.mustRegister()
	_, err := b.pull()
	require.NoError(t, err)
	require.NotEmpty(t, b.offers)
	require.Equal(t, "a", b.offers[0].GetPeerId())
}

// Without a scheduler that remembers, a peer that nobody knows is taken in by
// its pull.
func TestStrangerGoesOnWithoutAnyMemory(t *testing.T) {
	t.Parallel()
	w, first, content := served(t)
	a := newPeer(t, first, "a", w.origin.URL("/f"))
	a.mustRegister()
	_, err := a.work(func() bool { return len(a.parts) == 1 })
	require.NoError(t, err)
	first.stop()
	second := w.addScheduler("s2", patient())
	a.desk, a.offers = second, nil
	_, err = a.pull()
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
	a.report = &schedulerv1.PullPiecesRequest{Status: schedulerv1.PullStatus_PULL_STATUS_RUNNING, Adopt: true}
	_, err = a.pull()
	require.NoError(t, err)
	a.finish(content)
	require.EqualValues(t, 1, w.origin.Stats("/f").Bodies)
}
