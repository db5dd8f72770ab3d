package cluster

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestClaimEndsWithItsScope(t *testing.T) {
	const ip = "127.30.0.1" // none of those that networks and ports are given
	t.Run("scope", func(t *testing.T) {
		require.True(t, claim(t, ip))
		require.False(t, claim(t, ip))
	})
	require.True(t, claim(t, ip))
}

// TestWhatAnotherHasIsPassedOver counts from where it did before, as another
// process may.
func TestWhatAnotherHasIsPassedOver(t *testing.T) {
	blocks, numbers := block.Load(), ports.Load()
	network, port := Net(t), FreePort(t)
	block.Store(blocks)
	ports.Store(numbers)
	require.NotEqual(t, network(1), Net(t)(1))
	require.NotEqual(t, port, FreePort(t))
}
