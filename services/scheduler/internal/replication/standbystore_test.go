package replication

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

func TestBookKeepsWhatADeadSchedulerToldForAWhile(t *testing.T) {
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	now := time.Now()
	told := func(stream string, anew bool, peers ...string) {
		m := &schedulerv1.TaskMemory{TaskId: idOf(1), Anew: anew}
		for _, p := range peers {
			m.Peers = append(m.Peers, &schedulerv1.PeerMemory{Peer: &schedulerv1.Peer{Id: p}})
		}
		store.Apply(stream, &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{m}}, now)
	}
	told("old", false, "nobody")
	_, there := store.Get(idOf(1))
	require.False(t, there, "a change of what was never told")
	told("old", true, "a", "b")
	told("new", true, "c")
	told("old", true, "a", "b")
	told("new", false, "d")
	r, _ := store.Get(idOf(1))
	require.Len(t, r.Update.Peers, 2, "the other stream has no say any more")
	store.Prune(now.Add(2 * Retention))
	_, there = store.Get(idOf(1))
	require.True(t, there, "its stream is open")
	store.EndStream("old", now)
	store.Prune(now.Add(Retention - time.Second))
	_, there = store.Get(idOf(1))
	require.True(t, there)
	store.Prune(now.Add(Retention))
	_, there = store.Get(idOf(1))
	require.False(t, there)
}

// One that says that it tells no more has given the task away; one that is cut
// off has not.
func TestTaskIsOrphanedOfASchedulerThatIsCutOff(t *testing.T) {
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	tell := func(stream string) {
		store.Apply(stream, &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{memoryOf(idOf(1)), memoryOf(idOf(2))}}, time.Now())
	}
	orphaned := func() []bool {
		return []bool{store.Orphaned(idOf(1)), store.Orphaned(idOf(2)), store.Orphaned(idOf(3))}
	}
	tell("first")
	require.Equal(t, []bool{false, false, false}, orphaned())
	store.Apply("first", &schedulerv1.MirrorRequest{Released: []string{idOf(2)}}, time.Now())
	for range 2 {
		store.EndStream("first", time.Now())
		require.Equal(t, []bool{true, false, false}, orphaned())
	}
	tell("second")
	require.Equal(t, []bool{false, false, false}, orphaned(), "it is back")
}
