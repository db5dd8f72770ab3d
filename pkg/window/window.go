// Package window controls the number of transfers that an instance has in flight. It
// finds the smallest number with which the instance sends at its full rate: the fewer
// transfers share that rate, the sooner each of them ends. The package is pure: time
// and measurements are arguments. Package capacity of the CDN divides the window among
// schedulers.
//
// The controller compares the rates of rounds with different windows. A round first
// waits until a change of the window has taken effect, and then measures. It counts
// only if the demand filled the window.
//
//	starting  --rate grows with the window--> starting, window doubled
//	starting  --rate does not grow----------> holding, window as before
//	starting  --demand does not fill it-----> starting, window as before
//	holding   --after some rounds, in turn--> growing (window × 1.5) or shrinking (window ÷ 1.5)
//	growing   --rate grew-------------------> growing, window doubled
//	growing   --rate did not grow-----------> holding, window as before
//	shrinking --rate as before--------------> holding with the smaller window
//	shrinking --rate fell-------------------> holding, window as before
//	growing or shrinking --demand does not fill it--> holding, window as before
//
// A window that differs from the last accepted one is a probe. If noise can be the
// cause of the result of a probe, a second round is measured. Each probe that is
// rejected doubles the number of rounds until the next one, so that probes have little
// effect once the window is right.
package window

import "time"

// Windows of a controller, in transfers.
const (
	// Initial is the window before the first measurement.
	Initial = 6
	// Min is the smallest window. With a smaller one, a single transfer changes the
	// rate by more than the thresholds below.
	Min = 4
	// Max is the largest window.
	Max = 4096
)

const (
	// settleTime and measureTime are the minimum durations of the two parts of a
	// round, maxPartTime is the maximum duration of each. See round.
	settleTime  = 200 * time.Millisecond
	measureTime = 400 * time.Millisecond
	maxPartTime = 5 * time.Second
	// minUse is the fraction of the window that must be in use on average, so that
	// the round counts.
	minUse = 0.75
	// The thresholds are ratios of the rate of a probe to the rate before it. A larger
	// window is accepted at clearGain, or at someGain on average of two rounds. A
	// smaller window is accepted at noLoss on average of two rounds, and rejected
	// below clearLoss after one.
	clearGain = 1.25
	someGain  = 1.10
	noLoss    = 0.95
	clearLoss = 0.80
	// maxPause is the maximum number of rounds between two probes.
	maxPause = 8
	// maxRateAge is the time since the last round that counted after which the
	// measured rate is discarded.
	maxRateAge = 10 * time.Second
)

// Sample holds the measurements of an instance at one time.
type Sample struct {
	// InFlight is the number of transfers in flight now.
	InFlight int
	// Limited says that since the last sample a transfer was refused because the
	// whole window was in use.
	Limited bool
	// Sent is the number of bytes sent since the instance started.
	Sent int64
	// Ended is the number of transfers that ended since the instance started.
	Ended int64
}

type phase int

const (
	starting phase = iota
	holding
	growing
	shrinking
)

// Controller finds the window of one instance. It is not safe for concurrent use.
type Controller struct {
	phase  phase
	window int // in effect; that of a probe while there is one
	base   int // the last window that was accepted

	rate          float64   // bytes per second at base, averaged; 0 if unknown
	firstRate     float64   // rate of the first round of a probe that is measured twice; 0 if there is none
	pause         int       // rounds between two probes
	rounds        int       // rounds since the last probe
	shrinkNext    bool      // the next probe shrinks the window
	lastFullRound time.Time // time of the last round that counted
	round         round
}

// New returns a controller with the initial window.
func New() *Controller {
	return &Controller{window: Initial, base: Initial, pause: 1}
}

// Window returns the maximum number of transfers that may be in flight.
func (c *Controller) Window() int { return c.window }

// Observe adds a sample that was taken at now. It must be called several times per
// round, for example every 100 ms.
func (c *Controller) Observe(now time.Time, s Sample) {
	rate, complete := c.round.add(now, s)
	if !complete {
		return
	}
	full, start := c.round.full(c.window), c.round.start
	c.round = round{}
	c.round.add(now, s)
	// The age is that at the start of the round, which may take as long as maxRateAge.
	if start.Sub(c.lastFullRound) > maxRateAge {
		c.rate, c.pause = 0, 1
	}
	if !full {
		c.revert()
		return
	}
	c.lastFullRound = now
	switch c.phase {
	case starting:
		c.endStartRound(rate)
	case holding:
		c.endHoldRound(rate)
	case growing:
		c.endGrowRound(rate)
	case shrinking:
		c.endShrinkRound(rate)
	}
}

// revert ends a probe whose window the demand did not fill.
func (c *Controller) revert() {
	c.window, c.firstRate, c.rounds = c.base, 0, 0
	if c.phase == starting {
		c.rate = 0 // the next round measures this window again
		return
	}
	c.phase = holding
}

// endStartRound handles a round of the start: the window doubles after the first round,
// and then as long as the rate grows by someGain.
func (c *Controller) endStartRound(rate float64) {
	switch {
	case c.rate == 0:
		c.base, c.rate = c.window, rate
		c.setWindow(2 * c.base)
	case rate >= someGain*c.rate:
		c.accept(rate)
		c.setWindow(2 * c.base)
	default:
		c.reject()
	}
	if c.window == c.base { // rejected, or Max is reached
		c.phase = holding
	}
}

// endHoldRound handles a round at the accepted window. It starts the next probe after
// pause rounds.
func (c *Controller) endHoldRound(rate float64) {
	switch {
	case c.rate == 0:
		c.rate = rate
	case rate > clearGain*c.rate || rate < clearLoss*c.rate: // the capacity has changed
		c.rate, c.pause = rate, 1
	default:
		c.rate = (c.rate + rate) / 2
	}
	if c.rounds++; c.rounds < c.pause {
		return
	}
	if c.shrinkNext && c.base > Min {
		c.phase = shrinking
		c.setWindow(c.base * 2 / 3)
	} else {
		c.phase = growing
		c.setWindow(c.base + (c.base+1)/2)
	}
	c.shrinkNext = !c.shrinkNext
	if c.window == c.base {
		c.phase = holding
	}
}

// endGrowRound handles a round of a probe with a larger window.
func (c *Controller) endGrowRound(rate float64) {
	mean := rate
	if c.firstRate > 0 {
		mean = (c.firstRate + rate) / 2
	}
	switch {
	case mean >= clearGain*c.rate, c.firstRate > 0 && mean >= someGain*c.rate:
		c.accept(mean)
		c.phase = growing
		c.setWindow(2 * c.base)
		if c.window == c.base {
			c.phase = holding
		}
	case c.firstRate == 0 && mean >= someGain*c.rate:
		c.firstRate = rate
	default:
		c.reject()
	}
}

// endShrinkRound handles a round of a probe with a smaller window.
func (c *Controller) endShrinkRound(rate float64) {
	switch {
	case c.firstRate == 0 && rate >= clearLoss*c.rate:
		c.firstRate = rate
	case c.firstRate > 0 && (c.firstRate+rate)/2 >= noLoss*c.rate:
		before := c.rate
		c.accept((c.firstRate + rate) / 2)
		c.rate = max(c.rate, before) // otherwise several probes could each lose a little
		c.phase, c.shrinkNext = holding, true
	default:
		c.reject()
	}
}

// accept makes the window of a probe the base.
func (c *Controller) accept(rate float64) {
	c.base, c.rate, c.firstRate, c.rounds, c.pause = c.window, rate, 0, 0, 1
}

// reject restores the base and extends the pause until the next probe.
func (c *Controller) reject() {
	c.phase, c.window, c.firstRate, c.rounds = holding, c.base, 0, 0
	c.pause = min(2*c.pause, maxPause)
}

// setWindow sets the window within Min and Max.
func (c *Controller) setWindow(window int) { c.window = min(max(window, Min), Max) }
