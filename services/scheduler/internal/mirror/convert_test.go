package mirror

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

func TestPeersSurviveTheWire(t *testing.T) {
	peers := []swarm.PeerMemory{
		{
			PeerInfo: swarm.PeerInfo{ID: "a", IP: "127.0.0.1", Port: 20000, Path: "/p", HostName: "h", Version: "1.0.6"},
			Have:     []uint64{7}, Serves: []uint64{1}, Writing: []uint64{2},
		},
		{PeerInfo: swarm.PeerInfo{ID: "left"}, Left: true},
		{PeerInfo: swarm.PeerInfo{ID: "migrant"}, Migrant: true},
	}
	list := parts("id", swarm.Memory{Peers: peers})
	require.Len(t, list, 1)
	for i, m := range list[0].GetPeers() {
		require.Equal(t, peers[i], peerOf(m))
	}
}
