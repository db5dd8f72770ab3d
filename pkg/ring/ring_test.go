package ring_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/ring"
)

const keys = 20000

func nodes(n int) []ring.Node {
	list := make([]ring.Node, n)
	for i := range list {
		list[i].ID = fmt.Sprintf("10.0.0.%d:9000", i)
	}
	return list
}

func first(t *testing.T, key int, list []ring.Node) string {
	t.Helper()
	id, ok := ring.First(fmt.Sprint("task", key), list)
	require.True(t, ok)
	return id
}

func TestOrderDoesNotDependOnTheOrderOfNodes(t *testing.T) {
	list := nodes(7)
	want := ring.Order("k", list)
	slices.Reverse(list)
	require.Equal(t, want, ring.Order("k", list))
	id, _ := ring.First("k", list)
	require.Equal(t, want[0].ID, id)
}

func TestNoNodes(t *testing.T) {
	_, ok := ring.First("k", nil)
	require.False(t, ok)
	require.Empty(t, ring.Order("k", nil))
}

func TestMemberThatLeavesMovesOnlyItsOwnKeys(t *testing.T) {
	all := nodes(5)
	for key := range keys {
		before := first(t, key, all)
		after := first(t, key, all[1:])
		if before != all[0].ID {
			require.Equal(t, before, after)
		}
	}
}

func TestKeysSpreadByWeight(t *testing.T) {
	list := nodes(4)
	list[0].Weight = 3
	count := make(map[string]int)
	for key := range keys {
		count[first(t, key, list)]++
	}
	// Three of six shares, with a tolerance far beyond the spread of the hash.
	require.InEpsilon(t, keys/2, count[list[0].ID], 0.05)
	require.InEpsilon(t, keys/6, count[list[1].ID], 0.1)
}
