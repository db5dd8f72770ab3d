package chaos

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
)

func TestPlanIsReproducibleAndLeavesEnoughAlive(t *testing.T) {
	const length = 15 * time.Minute
	for seed := range uint64(20) {
		plan := Plan(seed, length, 3)
		require.Equal(t, plan, Plan(seed, length, 3))
		require.NotEqual(t, plan, Plan(seed+1, length, 3))
		kinds, until := make(map[Kind]int), make(map[cluster.Role]time.Duration)
		for _, b := range plan {
			kinds[b.Kind]++
			require.Greater(t, b.At, until[b.Role], "one of a role at a time")
			until[b.Role] = b.At + b.For + calmLeast - 1
			require.Less(t, b.At+b.For, length)
		}
		require.Len(t, kinds, 5)
		require.Len(t, until, len(Roles()))
	}
}
