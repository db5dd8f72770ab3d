package window_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/window"
)

const (
	tick = 100 * time.Millisecond
	flow = 1 << 20 // bytes per second of one transfer
	unit = 1 << 20 // bytes of a transfer
)

// link simulates an instance. Each transfer sends at flow, and all of them together send
// at capacity at most.
type link struct {
	*window.Controller
	capacity float64 // bytes per second
	demand   int     // transfers that schedulers request
	noise    func() float64

	now   time.Time
	sent  float64
	ended float64
}

func newLink(capacity float64) *link {
	return &link{
		Controller: window.New(), capacity: capacity, demand: 1 << 20,
		now: time.Unix(1, 0), noise: func() float64 { return 1 },
	}
}

// run simulates d, and returns the fraction of the capacity that was used.
func (l *link) run(d time.Duration) float64 {
	before, began := l.sent, l.now
	for end := l.now.Add(d); l.now.Before(end); {
		k := min(l.Window(), l.demand)
		bytes := min(float64(k)*flow, l.capacity) * l.noise() * tick.Seconds()
		l.now = l.now.Add(tick + time.Duration(rand.IntN(20))*time.Microsecond)
		l.sent += bytes
		l.ended += bytes / unit
		l.Observe(l.now, window.Sample{InFlight: k, Limited: l.demand > k, Sent: int64(l.sent), Ended: int64(l.ended)})
	}
	return (l.sent - before) / l.now.Sub(began).Seconds() / l.capacity
}

// noises returns functions that change the rate by up to ±10 %, for each sample or for
// several seconds.
func noises(random *rand.Rand) map[string]func() float64 {
	draw := func() float64 { return 0.9 + 0.2*random.Float64() }
	level, left := 1.0, 0
	return map[string]func() float64{
		"none":       func() float64 { return 1 },
		"per sample": draw,
		"per seconds": func() float64 {
			if left--; left < 0 {
				level, left = draw(), 10+random.IntN(30)
			}
			return level
		},
	}
}

func TestWindowUsesTheCapacityAndStaysSmall(t *testing.T) {
	t.Parallel()
	for _, flows := range []int{2, 10, 100, 1000} {
		for seed := range uint64(20) {
			for name, noise := range noises(rand.New(rand.NewPCG(seed, 1))) {
				l := newLink(float64(flows) * flow)
				l.noise = noise
				l.run(time.Minute)
				where := fmt.Sprintf("%d flows, noise %s, seed %d, window %d", flows, name, seed, l.Window())
				require.Greater(t, l.run(5*time.Minute), 0.9, where)
				require.LessOrEqual(t, l.Window(), max(4*flows, 2*window.Initial), where)
			}
		}
	}
}

// A round on such a link takes as long as maxRateAge.
func TestWindowOfALinkThatIsSlowerThanItsTransfersStaysSmall(t *testing.T) {
	t.Parallel()
	l := newLink(flow / 4)
	l.run(10 * time.Minute)
	require.LessOrEqual(t, l.Window(), 2*window.Initial)
}

func TestWindowGrowsFastWhileTheRateGrows(t *testing.T) {
	t.Parallel()
	l := newLink(1000 * flow)
	for seconds := 1; l.Window() < 1000; seconds++ {
		l.run(time.Second)
		require.Less(t, seconds, 30, "window %d", l.Window())
	}
}

func TestWindowAdaptsToAChangeOfTheCapacity(t *testing.T) {
	t.Parallel()
	l := newLink(20 * flow)
	l.run(time.Minute)
	require.Less(t, l.Window(), 80)
	l.capacity = 200 * flow
	l.run(2 * time.Minute)
	require.Greater(t, l.run(time.Minute), 0.9, "window %d", l.Window())
	l.capacity = 20 * flow
	l.run(5 * time.Minute)
	require.Less(t, l.Window(), 100)
	require.Greater(t, l.run(time.Minute), 0.9, "window %d", l.Window())
}

func TestWindowDoesNotChangeUnlessDemandFillsIt(t *testing.T) {
	t.Parallel()
	l := newLink(100 * flow)
	l.demand = 3
	l.run(time.Minute)
	require.Equal(t, window.Initial, l.Window())
	l.demand = 1 << 20
	l.run(time.Minute)
	found := l.Window()
	require.GreaterOrEqual(t, found, 90)
	l.demand = 0
	l.run(10 * time.Minute)
	require.InDelta(t, found, l.Window(), float64(found), "a probe may have been running")
	require.GreaterOrEqual(t, l.Window(), 90)
}

func TestWindowIsBounded(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]float64{"huge": 1e6 * flow, "tiny": flow / 10, "nothing": 1} {
		l := newLink(c)
		for range 600 {
			l.run(time.Second)
			require.GreaterOrEqual(t, l.Window(), window.Min, name)
			require.LessOrEqual(t, l.Window(), window.Max, name)
		}
	}
}

func TestCountersAndClockThatGoBackwardsDoNotCauseAWrongRate(t *testing.T) {
	t.Parallel()
	l := newLink(10 * flow)
	l.run(time.Minute)
	l.sent, l.ended = 0, 0
	l.run(time.Minute)
	require.Greater(t, l.run(time.Minute), 0.9)
	l.now = l.now.Add(-time.Hour)
	l.run(time.Minute)
	require.Greater(t, l.run(time.Minute), 0.9)
}
