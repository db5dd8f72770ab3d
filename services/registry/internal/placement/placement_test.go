package placement_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/placement"
)

func candidates(n int, zones int) []placement.Candidate {
	all := make([]placement.Candidate, n)
	for i := range all {
		all[i] = placement.Candidate{ID: fmt.Sprint("c", i), Zone: fmt.Sprint("z", i%zones), Capacity: 1}
	}
	return all
}

// spread places tasks one after the other and returns how many each candidate got.
func spread(t *testing.T, tasks int, all []placement.Candidate) map[string]int {
	t.Helper()
	got := make(map[string]int)
	for task := range tasks {
		for i := range all {
			all[i].Load = got[all[i].ID]
		}
		id, ok := placement.Owner(fmt.Sprint("task", task), all)
		require.True(t, ok)
		got[id]++
	}
	return got
}

func TestNoOwnerHasMoreThanTheBound(t *testing.T) {
	for _, tasks := range []int{1, 3, 7, 100, 1000} {
		for id, n := range spread(t, tasks, candidates(5, 1)) {
			require.LessOrEqual(t, n, (tasks*125+499)/500, "%s of %d tasks", id, tasks)
		}
	}
}

func TestShareFollowsCapacity(t *testing.T) {
	all := candidates(4, 1)
	all[0].Capacity = 3
	got := spread(t, 1200, all)
	require.LessOrEqual(t, got["c0"], 750)
	for _, id := range []string{"c1", "c2", "c3"} {
		require.LessOrEqual(t, got[id], 250)
	}
}

func TestFirstInRendezvousOrderIsChosenUpToItsBound(t *testing.T) {
	all := candidates(5, 1)
	first, _ := placement.Owner("t", all)
	for i := range all {
		if all[i].ID != first {
			all[i].Load = 10
		} else {
			all[i].Load = 12
		}
	}
	id, _ := placement.Owner("t", all)
	require.Equal(t, first, id, "it is above the mean and below its bound")
	for i := range all {
		if all[i].ID == first {
			all[i].Load = 14
		}
	}
	id, _ = placement.Owner("t", all)
	require.NotEqual(t, first, id)
}

func TestReplicaIsPlacedInAnotherZoneWhateverItsLoad(t *testing.T) {
	all := candidates(4, 2)
	for i := range all {
		if all[i].Zone == "z1" {
			all[i].Load = 1000
		}
	}
	id, ok := placement.Replica("t", "z0", all)
	require.True(t, ok)
	require.Contains(t, []string{"c1", "c3"}, id, "the zone has priority over the load")
	all[1].Load = 1001
	id, _ = placement.Replica("t", "z0", all)
	require.Equal(t, "c3", id, "all are above their bounds: the one with the lowest load")
	all[1].Excluded, all[3].Excluded = true, true
	id, _ = placement.Replica("t", "z0", all)
	require.Contains(t, []string{"c0", "c2"}, id, "no other zone has an eligible CDN")
}

func TestNoEligibleCDN(t *testing.T) {
	_, ok := placement.Owner("t", nil)
	require.False(t, ok)
	all := candidates(1, 1)
	all[0].Excluded = true
	_, ok = placement.Replica("t", "z0", all)
	require.False(t, ok)
}
