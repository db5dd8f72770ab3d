package limits

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTooManyPeersAreRefusedWithTheReason(t *testing.T) {
	require.NoError(t, MakeRoom(5))
	err := MakeRoom(1 << 29)
	require.ErrorContains(t, err, "ulimit -Hn")
	require.ErrorContains(t, err, "peers are possible")
	require.Equal(t, 9900, most(20_000))
	require.Zero(t, most(100))
	all, err := Free(0)
	require.NoError(t, err)
	rest, err := Free(3)
	require.NoError(t, err)
	require.Equal(t, all-6, rest)
	ports, err := localPorts()
	require.NoError(t, err)
	require.Positive(t, ports)
}
