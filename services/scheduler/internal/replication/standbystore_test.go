package replication

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

func TestReplicaOfADeadSchedulersTaskIsKeptForRetention(t *testing.T) {
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	now := time.Now()
	update := func(stream string, full bool, peers ...string) {
		m := &schedulerv1.TaskMemory{TaskId: idOf(1), Anew: full}
		for _, p := range peers {
			m.Peers = append(m.Peers, &schedulerv1.PeerMemory{Peer: &schedulerv1.Peer{Id: p}})
		}
		store.Apply(stream, &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{m}}, now)
	}
	update("old", false, "unknown")
	_, ok := store.Get(idOf(1))
	require.False(t, ok, "changes without a full update are ignored")
	update("old", true, "a", "b")
	update("new", true, "c")
	update("old", true, "a", "b")
	update("new", false, "d")
	state, _ := store.Get(idOf(1))
	require.Len(t, state.Update.Peers, 2, "the last full update came from the other stream")
	store.Prune(now.Add(2 * Retention))
	_, ok = store.Get(idOf(1))
	require.True(t, ok, "its stream is open")
	store.EndStream("old", now)
	store.Prune(now.Add(Retention - time.Second))
	_, ok = store.Get(idOf(1))
	require.True(t, ok)
	store.Prune(now.Add(Retention))
	_, ok = store.Get(idOf(1))
	require.False(t, ok)
}

// A scheduler that releases a task has given it away. One whose stream ends has not.
func TestTaskIsOrphanedWhenItsStreamEndsWithoutARelease(t *testing.T) {
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	update := func(stream string) {
		store.Apply(stream, &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{fullUpdateOf(idOf(1)), fullUpdateOf(idOf(2))}}, time.Now())
	}
	orphaned := func() []bool {
		return []bool{store.Orphaned(idOf(1)), store.Orphaned(idOf(2)), store.Orphaned(idOf(3))}
	}
	update("first")
	require.Equal(t, []bool{false, false, false}, orphaned())
	store.Apply("first", &schedulerv1.MirrorRequest{Released: []string{idOf(2)}}, time.Now())
	for range 2 {
		store.EndStream("first", time.Now())
		require.Equal(t, []bool{true, false, false}, orphaned())
	}
	update("second")
	require.Equal(t, []bool{false, false, false}, orphaned(), "another stream replicates it")
}
