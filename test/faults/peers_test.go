package faults

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

// peersAt makes n configurations. Each knows all of the gateways, another one
// first, or only its own. What they write is there until the test ends.
func peersAt(t testing.TB, n int, url string, gateways []*cluster.Node, own bool) []peer.Config {
	t.Helper()
	return peersIn(t, t.TempDir(), n, url, gateways, own)
}

// peersIn has them write into a directory, which they can share.
func peersIn(t testing.TB, dir string, n int, url string, gateways []*cluster.Node, own bool) []peer.Config {
	t.Helper()
	address, buffers := cluster.Net(t), &peer.Buffers{}
	configs := make([]peer.Config, n)
	for i := range configs {
		var nodes []string
		for k := range gateways {
			nodes = append(nodes, gateways[(i+k)%len(gateways)].REST)
		}
		if own {
			nodes = nodes[:1]
		}
		configs[i] = peer.Config{
			Nodes: nodes, KeepOrder: true, IP: address(1 + i%250), Dir: dir,
			URL: url, NoBackSource: true, Buffers: buffers,
		}
	}
	return configs
}

// begin lets peers download and gives how that went, once.
func begin(ctx context.Context, t testing.TB, configs []peer.Config) <-chan swarm.Tally {
	t.Helper()
	_, done := beginSwarm(ctx, t, configs)
	return done
}

// beginSwarm gives the peers, too. They serve until the test ends.
func beginSwarm(ctx context.Context, t testing.TB, configs []peer.Config) (*swarm.Swarm, <-chan swarm.Tally) {
	t.Helper()
	s, err := swarm.New(configs)
	require.NoError(t, err)
	done := make(chan swarm.Tally, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		done <- s.Download(ctx)
	}()
	t.Cleanup(func() {
		s.Close()
		<-ended
	})
	return s, done
}

// requireRight requires that all have the file, and that nobody asked the
// source for it.
func requireRight(t *attempt, f file, tally swarm.Tally) {
	t.Helper()
	t.Log(tally)
	for i, o := range tally.Outcomes {
		require.NoError(t, wrong(f, o), "peer %d", i)
	}
	require.Zero(t, tally.BackToSource)
	t.within(tally.Err())
}

// wrong says what of a download no lack of time excuses. That it failed
// otherwise is not told.
func wrong(f file, o swarm.Outcome) error {
	switch {
	case errors.Is(o.Err, peer.ErrWrongMD5), errors.Is(o.Err, peer.ErrDies):
		return o.Err
	case o.Err == nil && o.MD5 != f.sum:
		return fmt.Errorf("the file has MD5 %s instead of %s", o.MD5, f.sum)
	}
	return nil
}

// requireCached downloads once more, through every gateway if trials are large:
// nothing may come from the source for that.
func (s *site) requireCached(ctx context.Context, t *attempt, f file) {
	t.Helper()
	before, gateways := s.sent(f), s.there(cluster.Gateway)
	if !large {
		gateways = gateways[:1]
	}
	requireRight(t, f, <-begin(ctx, t, peersAt(t, len(gateways), f.url, gateways, true)))
	require.Equal(t, before, s.sent(f), "what is there is not fetched again")
}
