package e2e

import (
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
)

// migration is what a peer sees of one.
type migration struct {
	mu      sync.Mutex // guards what follows
	moved   bool
	arrived map[int]int
	failed  map[int]bool
	waited  int // for nothing, since it migrated
}

func (m *migration) observe(e peer.Event) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch e.Kind {
	case peer.Arrived:
		m.arrived[e.Piece]++
	case peer.Failed:
		m.failed[e.Piece] = true
	case peer.Migrated:
		m.moved = true
	case peer.Pulled:
		if m.moved && e.Code == 602 {
			m.waited++
		}
	default:
	}
}

// A peer whose gateway and scheduler die together, with all who remember what it
// has, goes on at a supernode that has the file and never heard of the peer.
func TestPeerWithHalfOfAFileGoesOnWhereNobodyKnowsIt(t *testing.T) {
	t.Parallel()
	const pieces, size = 300, 4 << 10
	const room = size - piece.WrapLength
	file := cluster.NewCached("http://127.0.0.1:1/f", origin.Content(pieces*room-7, 1), size)
	m := &migration{arrived: make(map[int]int), failed: make(map[int]bool)}
	result := cluster.Migrate(t, binaries, file, pieces/2, peer.Config{
		Observe:    m.observe,
		LocalLimit: pieces / 2 * room / 3, // half of it takes seconds, in which the first supernode is killed
	}).Result
	require.Equal(t, file.MD5, result.MD5)
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Len(t, m.arrived, pieces)
	for num, times := range m.arrived {
		require.Equal(t, 1, times, "piece %d is transferred once", num)
	}
	begun := make(map[int]bool)
	for _, num := range result.Offered {
		require.True(t, !begun[num] || m.failed[num], "piece %d is fetched again only because it failed", num)
		begun[num] = true
	}
	t.Logf("it waited for nothing %d times", m.waited)
}
