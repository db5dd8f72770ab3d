package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/balancer"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

// Gateways keep nothing that another could not do without: who loses one goes
// on at the next. Clients find that by themselves if they know two addresses;
// behind a balancer they need not know that there is more than one.
func TestGateways(t *testing.T) {
	t.Parallel()
	s := services(t, 3)
	attempts(t, "killed, two addresses", func(t *attempt) {
		saw := s.crowd(t, crowd{nodes: s.pairs(), fault: s.killOne})
		for i, o := range saw.inTheMidst.Outcomes {
			t.within(unless(o.Migrations == 1-i%2, fmt.Sprintf("peer %d went to another address %d times", i, o.Migrations)))
		}
	})
	attempts(t, "killed, a balanced address listed twice", func(t *attempt) {
		b := s.balance(t, peersOfTrial+latecomers)
		s.crowd(t, crowd{nodes: b.listed(2), fault: s.killUsed(b)}).requireUnseen(t)
	})
	attempts(t, "killed, a balanced address listed once", func(t *attempt) {
		b := s.balance(t, peersOfTrial+latecomers)
		s.crowd(t, crowd{nodes: b.listed(1), fault: s.killUsed(b)}).requireUnseen(t)
	})
	// What was held at the one that is killed is held on at another, and together
	// that must not be longer than clients wait.
	attempts(t, "killed, a balanced address listed once, a source that stands still", func(t *attempt) {
		b := s.balance(t, peersOfTrial+latecomers)
		s.crowd(t, crowd{nodes: b.listed(1), fault: s.killUsed(b), still: true}).requireUnseen(t)
	})
	attempts(t, "balanced, nothing", func(t *attempt) {
		b := s.balance(t, peersOfTrial+latecomers)
		s.crowd(t, crowd{nodes: b.listed(1), fault: func(testing.TB) {}}).requireUnseen(t)
		for i := range peersOfTrial {
			require.Greater(t, len(b[i].Taken()), 1, "the calls of peer %d went to one gateway alone", i)
		}
	})
	attempts(t, "balanced, told to stop one after the other", func(t *attempt) {
		b := s.balance(t, peersOfTrial+latecomers)
		s.crowd(t, crowd{nodes: b.listed(1), fault: s.restartAll}).requireUnseen(t)
	})
}

// pairs has half of the peers begin at the gateway that is killed, and go on at
// another; the others do not know it first.
func (s *site) pairs() func(i int) []string {
	gateways := s.All(cluster.Gateway)
	return func(i int) []string { return []string{gateways[i%2].REST, gateways[2-i%2].REST} }
}

func (s *site) killOne(testing.TB) { s.All(cluster.Gateway)[0].Kill() }

// killUsed kills a gateway that calls have gone to.
func (s *site) killUsed(b balancers) func(testing.TB) {
	return func(t testing.TB) {
		t.Helper()
		taken := 0
		for _, one := range b {
			taken += one.Taken()[s.All(cluster.Gateway)[0].REST]
		}
		require.Positive(t, taken)
		s.killOne(t)
	}
}

func (s *site) restartAll(t testing.TB) {
	t.Helper()
	for _, n := range s.All(cluster.Gateway) {
		require.NoError(t, n.Stop(), n.Name)
		n.Launch(s.t)
		n.Await(t)
	}
}

// balancers are those of the peers of a crowd.
type balancers []*balancer.Balancer

// listed gives each peer the address of its own so many times.
func (b balancers) listed(times int) func(i int) []string {
	return func(i int) []string { return slices.Repeat([]string{b[i].Addr()}, times) }
}

// balance gives every peer of a crowd a balancer of its own before all gateways,
// as every machine of a Kubernetes cluster has one. No gateway is the first of
// all of them.
func (s *site) balance(t testing.TB, peers int) balancers {
	t.Helper()
	var backends []string
	for _, n := range s.All(cluster.Gateway) {
		backends = append(backends, n.REST)
	}
	all := make(balancers, peers)
	for i := range all {
		k := i % len(backends)
		b, err := balancer.Start("127.0.0.1:0", slices.Concat(backends[k:], backends[:k])...)
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, b.Close()) })
		all[i] = b
	}
	return all
}

// longHeld is most of the time that a pull is held.
const longHeld = 2300 * time.Millisecond

// latecomers register for another file while it happens.
const latecomers = peersOfTrial / 2

// crowd is peers that download a file, others that register for one of which
// the source says nothing yet, and what happens to gateways meanwhile.
type crowd struct {
	// nodes are the addresses that a peer is given.
	nodes func(i int) []string
	fault func(testing.TB)
	// still has pulls held for long when it happens, and for long behind it.
	still bool
}

// sight is what a crowd saw.
type sight struct {
	*wire
	inTheMidst, late swarm.Tally
}

// peers makes n configurations, from the number first on.
func (s sight) peers(t testing.TB, c crowd, f file, first, n int) []peer.Config {
	t.Helper()
	configs := peersAt(t, n, f.url, nil, false)
	for i := range configs {
		configs[i].Nodes, configs[i].Observe, configs[i].LocalLimit = c.nodes(first+i), s.observe, rateOfPeer
	}
	return configs
}

// awaitHeld waits until pulls have been held for long, at the point where the
// source stopped.
func (s sight) awaitHeld(t testing.TB, f file) {
	t.Helper()
	content := int64(piece.SizeFor(f.Size)) - piece.WrapLength
	there := f.StallAfter / content * content
	await(t, trialLimit, "all are to have what there is", func() error { return unless(s.came() >= peersOfTrial*there, "some have not") })
	atLeast(longHeld)
}

func (s sight) waits() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.codes[602]
}

// crowd lets it happen. All have to end with the right bytes and without an
// answer that dfget does not expect, those that came late where they registered
// first.
func (s *site) crowd(t *attempt, c crowd) sight {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), trialLimit)
	defer cancel()
	s.comeBack(t)
	saw := sight{wire: newWire()}
	f, silent := s.stalledFile(), s.silentFile()
	done := begin(ctx, t, saw.peers(t, c, f, 0, peersOfTrial))
	require.NoError(t, s.source.Await(ctx, f.path, func(st origin.Stats) bool { return st.BytesSent >= f.StallAfter }))
	if c.still {
		saw.awaitHeld(t, f)
	}
	lateDone := begin(ctx, t, saw.peers(t, c, silent, peersOfTrial, latecomers))
	require.NoError(t, s.source.Await(ctx, silent.path, func(st origin.Stats) bool { return st.Requests > 0 }))
	c.fault(t)
	if c.still {
		waits := saw.waits()
		await(t, trialLimit, "all are to be held in vain", func() error { return unless(saw.waits() >= waits+2*peersOfTrial, "not all were") })
	}
	s.source.Release(f.path)
	saw.inTheMidst, saw.late = <-done, <-lateDone
	saw.requireExpected(t)
	requireRight(t, f, saw.inTheMidst)
	requireRight(t, silent, saw.late)
	t.within(stayed(saw.late.Migrations))
	t.within(unless(s.sent(f)+s.sent(silent) == f.Size+silent.Size, "the source was asked for something twice"))
	return saw
}

// stalledFile is one in the midst of which the source stops.
func (s *site) stalledFile() file {
	f := s.newFile(sizeOfFile, rateOfSource)
	f.StallAfter, f.StallRequests = sizeOfFile*usual/100, 1
	s.source.Change(f.path, f.File)
	return f
}

// silentFile is one of which the source says nothing at first, so that who
// registers is not answered before.
func (s *site) silentFile() file {
	const size = 2_000_000
	f := s.newFile(size, 0)
	f.HeaderDelay = time.Second
	s.source.Change(f.path, f.File)
	return f
}

// requireUnseen wants that no client noticed anything.
func (s sight) requireUnseen(t *attempt) {
	t.Helper()
	t.within(errors.Join(stayed(s.inTheMidst.Migrations), s.answered()))
}
