package e2e

import (
	"context"
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
	half    int
	reached chan struct{} // it has half

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
		if m.arrived[e.Piece]++; len(m.arrived) == m.half {
			close(m.reached)
		}
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
	file := cluster.NewCached("http://127.0.0.1:1/f", origin.Content(pieces*(size-piece.WrapLength)-7, 1), size)
	address := cluster.Net(t)
	start := func(host int) *cluster.Supernode {
		home := t.TempDir()
		file.Put(t, home)
		return cluster.StartSupernode(t, binaries, address(host), home)
	}
	first, second := start(1), start(2)
	m := &migration{half: pieces / 2, reached: make(chan struct{}), arrived: make(map[int]int), failed: make(map[int]bool)}
	p, err := peer.New(peer.Config{
		Nodes: []string{first.REST, second.REST}, KeepOrder: true, IP: address(3), Dir: t.TempDir(),
		URL: file.URL, MD5: file.MD5, NoBackSource: true, Observe: m.observe,
	})
	require.NoError(t, err)
	defer p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := p.Download(ctx)
		ended <- err
	}()
	select {
	case <-m.reached:
	case err := <-ended:
		require.Fail(t, "it ended before it had half", "%v", err)
	}
	first.Kill()
	require.NoError(t, <-ended)
	result := p.Result()
	require.Equal(t, file.MD5, result.MD5)
	require.Equal(t, 1, result.Migrations)
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
	require.Zero(t, m.waited, "there was something for it all the time")
}
