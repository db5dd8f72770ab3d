package mirror

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

func TestBookKeepsWhatADeadSchedulerToldForAWhile(t *testing.T) {
	book, err := NewBook(prometheus.NewRegistry())
	require.NoError(t, err)
	now := time.Now()
	told := func(stream string, anew bool, peers ...string) {
		m := &schedulerv1.TaskMemory{TaskId: idOf(1), Anew: anew}
		for _, p := range peers {
			m.Peers = append(m.Peers, &schedulerv1.PeerMemory{Peer: &schedulerv1.Peer{Id: p}})
		}
		book.Take(stream, &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{m}}, now)
	}
	told("old", false, "nobody")
	_, there := book.Recall(idOf(1))
	require.False(t, there, "a change of what was never told")
	told("old", true, "a", "b")
	told("new", true, "c")
	told("old", true, "a", "b")
	told("new", false, "d")
	r, _ := book.Recall(idOf(1))
	require.Len(t, r.Memory.Peers, 2, "the other stream has no say any more")
	book.Prune(now.Add(2 * Keep))
	_, there = book.Recall(idOf(1))
	require.True(t, there, "its stream is open")
	book.Ended("old", now)
	book.Prune(now.Add(Keep - time.Second))
	_, there = book.Recall(idOf(1))
	require.True(t, there)
	book.Prune(now.Add(Keep))
	_, there = book.Recall(idOf(1))
	require.False(t, there)
}

// One that says that it tells no more has given the task away; one that is cut
// off has not.
func TestTaskIsOrphanedOfASchedulerThatIsCutOff(t *testing.T) {
	book, err := NewBook(prometheus.NewRegistry())
	require.NoError(t, err)
	tell := func(stream string) {
		book.Take(stream, &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{memoryOf(idOf(1)), memoryOf(idOf(2))}}, time.Now())
	}
	orphaned := func() []bool { return []bool{book.Orphaned(idOf(1)), book.Orphaned(idOf(2)), book.Orphaned(idOf(3))} }
	tell("first")
	require.Equal(t, []bool{false, false, false}, orphaned())
	book.Take("first", &schedulerv1.MirrorRequest{Released: []string{idOf(2)}}, time.Now())
	for range 2 {
		book.Ended("first", time.Now())
		require.Equal(t, []bool{true, false, false}, orphaned())
	}
	tell("second")
	require.Equal(t, []bool{false, false, false}, orphaned(), "it is back")
}
