// Package window controls how many transfers an instance has in flight at the
// same time, so that it sends as fast as it can with as few transfers as that
// takes: what is shared by fewer transfers arrives sooner. It is pure: time and
// measurements are arguments, and it does not divide the window among users.
//
// The controller compares the rate of rounds with different windows. A round
// counts only when demand filled the window throughout; it first lets a change
// of the window show, then measures.
//
//	starting --rate grows with the window--> starting, window doubled
//	starting --rate grows no more----------> holding
//	holding  --after some rounds, in turn--> growing (window × 1.5) or shrinking (window ÷ 1.5)
//	growing  --rate grew-------------------> growing, window doubled
//	growing  --rate did not grow-----------> holding, window as before
//	shrinking --rate as before-------------> holding with the smaller window
//	shrinking --rate fell------------------> holding, window as before
//	any probe --demand does not fill it----> holding, window as before
//
// A result that noise can explain is measured once more before it counts. Every
// probe that was in vain doubles the number of rounds until the next one, so
// that probing costs little once the window is right.
package window

import "time"

// The windows that a controller gives, in transfers.
const (
	// Initial is the window before anything was measured.
	Initial = 6
	// Min is the smallest window. A smaller one is not measurable: one transfer
	// more or less changes the rate by more than what the rules compare.
	Min = 4
	// Max is the largest window.
	Max = 4096
)

const (
	// settleTime and measureTime are the shortest parts of a round; both also last
	// until as many transfers have ended as are in flight, but not beyond longest.
	settleTime  = 200 * time.Millisecond
	measureTime = 400 * time.Millisecond
	longest     = 5 * time.Second
	// filled is the part of the window that must be in use on average.
	filled = 0.75
	// A probe that grows is kept if the rate grows by clearGain, or by someGain
	// in two rounds; one that shrinks if the rate stays above kept in two rounds.
	// One round is enough to drop a probe that shrinks below clearLoss.
	clearGain = 1.25
	someGain  = 1.10
	kept      = 0.95
	clearLoss = 0.80
	// mostPause is the largest number of rounds between two probes.
	mostPause = 8
	// stale is the time without a round that counts after which the rate that was
	// measured before says nothing any more.
	stale = 10 * time.Second
)

// Sample is what an instance measures.
type Sample struct {
	// InFlight is the number of transfers in flight now.
	InFlight int
	// Limited says that since the last sample a transfer was refused because the
	// window was used up.
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
	window int // in effect
	base   int // the last window that was kept

	rate    float64 // bytes per second at base, averaged; 0 is unknown
	again   float64 // rate of a probe that is measured once more; 0 is none
	pause   int     // rounds between two probes
	held    int     // rounds since the last probe
	down    bool    // the next probe shrinks
	counted time.Time
	round   round
}

// New returns a controller with the initial window.
func New() *Controller {
	return &Controller{window: Initial, base: Initial, pause: 1}
}

// Window returns the number of transfers that may be in flight.
func (c *Controller) Window() int { return c.window }

// Observe records what was measured at a time. It is to be called several times
// per round, such as every 100 ms.
func (c *Controller) Observe(now time.Time, s Sample) {
	rate, over := c.round.add(now, s)
	if !over {
		return
	}
	full, began := c.round.full(c.window), c.round.began
	c.round = round{}
	c.round.add(now, s)
	if began.Sub(c.counted) > stale { // not the round itself, which may take as long
		c.rate, c.pause = 0, 1
	}
	if !full {
		c.revert()
		return
	}
	c.counted = now
	switch c.phase {
	case starting:
		c.started(rate)
	case holding:
		c.hold(rate)
	case growing:
		c.grew(rate)
	case shrinking:
		c.shrank(rate)
	}
}

// revert ends a probe that demand did not fill.
func (c *Controller) revert() {
	c.window, c.again, c.held = c.base, 0, 0
	if c.phase == starting {
		c.rate = 0 // the start begins at this window once more
		return
	}
	c.phase = holding
}

// started takes a round of the start: the window doubles as long as at least a
// part of the growth shows in the rate.
func (c *Controller) started(rate float64) {
	switch {
	case c.rate == 0:
		c.base, c.rate = c.window, rate
		c.set(2 * c.base)
	case rate >= someGain*c.rate:
		c.keep(rate)
		c.set(2 * c.base)
	default:
		c.reject()
	}
	if c.window == c.base { // there is no larger one
		c.phase = holding
	}
}

// hold takes a round at the window that was kept, and starts the next probe
// when it is time.
func (c *Controller) hold(rate float64) {
	switch {
	case c.rate == 0:
		c.rate = rate
	case rate > clearGain*c.rate || rate < clearLoss*c.rate: // another capacity than before
		c.rate, c.pause = rate, 1
	default:
		c.rate = (c.rate + rate) / 2
	}
	if c.held++; c.held < c.pause {
		return
	}
	if c.down && c.base > Min {
		c.phase = shrinking
		c.set(c.base * 2 / 3)
	} else {
		c.phase = growing
		c.set(c.base + (c.base+1)/2)
	}
	c.down = !c.down
	if c.window == c.base {
		c.phase = holding
	}
}

// grew takes a round of a probe with a larger window.
func (c *Controller) grew(rate float64) {
	mean := rate
	if c.again > 0 {
		mean = (c.again + rate) / 2
	}
	switch {
	case mean >= clearGain*c.rate, c.again > 0 && mean >= someGain*c.rate:
		c.keep(mean)
		c.phase = growing
		c.set(2 * c.base)
		if c.window == c.base {
			c.phase = holding
		}
	case c.again == 0 && mean >= someGain*c.rate:
		c.again = rate
	default:
		c.reject()
	}
}

// shrank takes a round of a probe with a smaller window.
func (c *Controller) shrank(rate float64) {
	switch {
	case c.again == 0 && rate >= clearLoss*c.rate:
		c.again = rate
	case c.again > 0 && (c.again+rate)/2 >= kept*c.rate:
		before := c.rate
		c.keep((c.again + rate) / 2)
		c.rate = max(c.rate, before) // shrinking step by step must not lose a little with each
		c.phase, c.down = holding, true
	default:
		c.reject()
	}
}

// keep makes the window of a probe the one that is kept.
func (c *Controller) keep(rate float64) {
	c.base, c.rate, c.again, c.held, c.pause = c.window, rate, 0, 0, 1
}

// reject goes back to the window that was kept.
func (c *Controller) reject() {
	c.phase, c.window, c.again, c.held = holding, c.base, 0, 0
	c.pause = min(2*c.pause, mostPause)
}

func (c *Controller) set(window int) { c.window = min(max(window, Min), Max) }
