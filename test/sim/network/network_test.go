package network

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/sim/clock"
)

func TestFlowsShareTheTightestLinkAndTheOthersTakeWhatIsLeft(t *testing.T) {
	var c clock.Clock
	n := New(&c, 0)
	server, a, b, slow := NewLink(90), NewLink(100), NewLink(100), NewLink(10)
	flows := []*Flow{
		n.Start(1e6, nil, server, a),
		n.Start(1e6, nil, server, b),
		n.Start(1e6, nil, server, slow),
		n.Start(1e6, nil, NewLink(100), a),
	}
	c.Step(0)
	for i, want := range []float64{40, 40, 10, 60} {
		assert.InDelta(t, want, flows[i].Rate(), 1e-9, "flow %d", i)
	}
	assert.True(t, server.Full())
	assert.True(t, slow.Full())
	assert.True(t, a.Full())
	assert.False(t, b.Full())
}

func TestAFlowThatEndsLeavesItsShareToTheOthers(t *testing.T) {
	var c clock.Clock
	n := New(&c, 0)
	up := NewLink(100)
	var ends []time.Duration
	note := func() { ends = append(ends, c.Now()) }
	n.Start(100, note, up, NewLink(1000))
	n.Start(300, note, up, NewLink(1000))
	for c.Step(math.MaxInt64) {
	}
	assert.Equal(t, []time.Duration{2 * time.Second, 4 * time.Second}, ends)
}

func TestACancelledFlowReturnsWhatHasNotArrived(t *testing.T) {
	var c clock.Clock
	n := New(&c, 0)
	f := n.Start(1000, func() { t.Error("it has not arrived") }, NewLink(100), NewLink(200))
	c.After(3*time.Second, func() { assert.InDelta(t, 700, n.Cancel(f), 1e-6) })
	for c.Step(math.MaxInt64) {
	}
	assert.Zero(t, n.Cancel(f))
}

func TestAFlowOverThreeLinksIsBoundByEach(t *testing.T) {
	var c clock.Clock
	n := New(&c, 0)
	limit := NewLink(30)
	f, g := n.Start(1e6, nil, NewLink(100), NewLink(100), limit), n.Start(1e6, nil, NewLink(10), NewLink(100), limit)
	c.Step(0)
	assert.InDelta(t, 20, f.Rate(), 1e-9)
	assert.InDelta(t, 10, g.Rate(), 1e-9)
}

func TestFlowsShareALinkByTheirWeights(t *testing.T) {
	var c clock.Clock
	n := New(&c, 0)
	weights := []float64{1, 3, 1}
	n.Weigh(func() float64 {
		w := weights[0]
		weights = weights[1:]
		return w
	})
	up, slow := NewLink(100), NewLink(12)
	flows := []*Flow{n.Start(1e6, nil, up, NewLink(1e3)), n.Start(1e6, nil, up, NewLink(1e3)), n.Start(1e6, nil, up, slow)}
	c.Step(0)
	for i, want := range []float64{22, 66, 12} {
		assert.InDelta(t, want, flows[i].Rate(), 1e-9, "flow %d", i)
	}
}

// crowd starts a thousand transfers among 50 hosts and returns when they end.
func crowd(t *testing.T, step time.Duration, check func(*Network)) []time.Duration {
	var c clock.Clock
	n := New(&c, step)
	random := rand.New(rand.NewPCG(3, 4))
	ups, downs := make([]*Link, 50), make([]*Link, 50)
	for i := range ups {
		ups[i], downs[i] = NewLink(float64(1+random.IntN(5))*1e6), NewLink(float64(1+random.IntN(5))*1e6)
	}
	ends := make([]time.Duration, 1000)
	for i := range ends {
		from, to := random.IntN(50), random.IntN(50)
		c.After(time.Duration(random.IntN(60_000))*time.Millisecond, func() {
			n.Start(1e6, func() { ends[i] = c.Now() }, ups[from], downs[to])
		})
	}
	for c.Step(math.MaxInt64) {
		if check != nil {
			check(n)
		}
	}
	require.NotContains(t, ends, time.Duration(0))
	return ends
}

func TestEveryFlowHasALinkThatIsFullAndWhereNoneIsFaster(t *testing.T) {
	crowd(t, 0, func(n *Network) {
		if n.solve.Set() {
			return
		}
		for _, f := range n.flows {
			held := false
			for _, l := range f.links[:f.count] {
				sum, most := 0.0, 0.0
				for _, other := range l.Flows() {
					sum += other.rate
					most = max(most, other.rate)
				}
				require.LessOrEqual(t, sum, l.capacity*(1+1e-9))
				held = held || sum >= l.capacity*(1-1e-9) && f.rate >= most*(1-1e-9)
			}
			require.True(t, held, "a flow could be faster")
		}
	})
}

func TestAStepChangesTheEndsByLittle(t *testing.T) {
	exact, stepped := crowd(t, 0, nil), crowd(t, 5*time.Millisecond, nil)
	sum := 0.0
	for i := range exact {
		sum += (stepped[i] - exact[i]).Abs().Seconds()
	}
	assert.Less(t, sum/float64(len(exact)), 0.03, "mean difference in seconds")
}
