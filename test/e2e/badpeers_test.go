package e2e

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

// failures holds when pieces failed, by receiver and by source.
type failures struct {
	mu     sync.Mutex // guards pieces
	pieces map[int]map[string][]peer.Event
}

func (f *failures) of(receiver int) func(peer.Event) {
	return func(e peer.Event) {
		if e.Kind != peer.Failed {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.pieces[receiver] == nil {
			f.pieces[receiver] = make(map[string][]peer.Event)
		}
		f.pieces[receiver][e.From] = append(f.pieces[receiver][e.From], e)
	}
}

// A peer that serves wrong bytes, nothing, or at 1 KB/s costs each other peer one
// piece: it is not asked again for half a minute. One that reports nothing costs
// none.
func TestBadPeerCostsEachGoodPeerAtMostOnePiece(t *testing.T) {
	const avoided = 30 * time.Second
	faults := []peer.Faults{{CorruptServed: true}, {RefuseServed: true}, {ServeRate: 1 << 10}, {LoseReports: true}}
	node := oneSupernode(t)
	o := source(t)
	f, sum := file(60_000_000, 7)
	f.Rate = 20 << 20 // peers exchange pieces while it sends
	o.Put("/f", f)
	configs := peers(t, len(faults)+8, o.URL("/f"), node.REST)
	failed := failures{pieces: make(map[int]map[string][]peer.Event)}
	for i := range configs {
		configs[i].Observe = failed.of(i)
		if i < len(faults) {
			configs[i].Faults = faults[i]
		}
	}
	s, err := swarm.New(configs)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tally := s.Download(ctx)
	t.Log(tally)
	require.NoError(t, tally.Err())
	onlyCodesOfAHealthyCluster(t, tally)
	bad := make(map[string]string)
	for i, kind := range []string{"corrupts", "refuses", "is slow"} {
		bad[s.Peers[i].Cid()] = kind
	}
	total := 0
	for i, outcome := range tally.Outcomes {
		require.Equal(t, sum, outcome.MD5, "peer %d", i)
		if i < len(faults) {
			continue
		}
		for source, events := range failed.pieces[i] {
			t.Logf("peer %d lost %d pieces of %s, which %s: %v", i, len(events), source, bad[source], events[0].Err)
			if bad[source] == "" {
				continue // the machine stood still for longer than a client waits for a connection
			}
			total++
			for k := range events[1:] {
				require.Greater(t, events[k+1].Time.Sub(events[k].Time), avoided, "it was sent there again: %v", events[k+1].Err)
			}
		}
	}
	require.Positive(t, total, "no peer was sent to a bad one: nothing was tested")
}
