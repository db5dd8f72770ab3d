// Package network moves bytes over links that flows share max-min fairly: the
// rates are such that none can grow but at the cost of one that is not greater.
//
// The rates are found by progressive filling over all flows. With a step of 0
// that happens whenever a flow starts or ends. With a longer step changes are
// gathered: a flow that starts in between has what its links have left over,
// what a flow that ends had is left over, and at the end of the step all rates
// are max-min again. That makes 100,000 hosts possible; a step of a hundredth of
// the time of a transfer changes its end by less than that.
package network

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/sim/clock"
)

// full is the share of a link's capacity from which on it has a queue.
const full = 0.98

// Link is one direction of a host's connection.
type Link struct {
	capacity float64 // bytes a second
	free     float64 // of that
	flows    []place
	index    int // among the network's active links, -1 when it has no flow

	// Used while rates are being found.
	open   int     // flows without a rate yet
	weight float64 // the sum of theirs
	spare  float64
}

// place is a flow on a link: its own links' number of this one.
type place struct {
	flow *Flow
	side int8
}

// NewLink makes a link of so many bytes a second.
func NewLink(capacity float64) *Link {
	return &Link{capacity: capacity, free: capacity, index: -1}
}

// Full tells whether the link carries all that it can, so that packets queue.
func (l *Link) Full() bool { return l.free <= l.capacity*(1-full) }

// Flows returns the flows that cross the link, in no order.
func (l *Link) Flows() []*Flow {
	list := make([]*Flow, len(l.flows))
	for i, p := range l.flows {
		list[i] = p.flow
	}
	return list
}

const maxLinks = 3

// Flow is a number of bytes on their way over one to three links.
type Flow struct {
	links     [maxLinks]*Link
	places    [maxLinks]int // in the links' lists
	count     int8
	index     int // among the network's flows, -1 when it has ended
	soon      bool
	weight    float64
	bytes     float64
	remaining float64
	rate      float64
	updated   time.Duration // when remaining was right
	ends      time.Duration
	done      func()
}

// Rate returns the bytes a second that it has now.
func (f *Flow) Rate() float64 { return f.rate }

// Moved returns the bytes that have arrived, at the present time.
func (f *Flow) Moved(now time.Duration) float64 {
	return min(f.bytes-f.remaining+f.rate*(now-f.updated).Seconds(), f.bytes)
}

// Network is a set of flows. It belongs to one goroutine, the clock's.
type Network struct {
	clock  *clock.Clock
	step   time.Duration
	weight func() float64

	flows  []*Flow
	active []*Link
	heap   []level

	solved time.Duration // when rates were found last
	solve  *clock.Timer
	finish *clock.Timer
	soon   []*Flow // those that end until horizon, the last one first
	until  time.Duration
	solves int64
}

// New makes a network without flows, in which all are equal.
func New(c *clock.Clock, step time.Duration) *Network {
	n := &Network{clock: c, step: step, weight: func() float64 { return 1 }}
	n.solve = clock.New(n.share)
	n.finish = clock.New(n.ended)
	return n
}

// Weigh has each flow that starts share with the weight that draw gives, as the
// connections on a real link are never equal.
func (n *Network) Weigh(draw func() float64) { n.weight = draw }

// Solves returns how often all rates were found anew.
func (n *Network) Solves() int64 { return n.solves }

// Start lets bytes go over the links; done is called when they have arrived.
func (n *Network) Start(bytes float64, done func(), links ...*Link) *Flow {
	f := &Flow{weight: n.weight(), bytes: bytes, remaining: max(bytes, 1), updated: n.clock.Now(), ends: math.MaxInt64, done: done}
	f.index = len(n.flows)
	n.flows = append(n.flows, f)
	rate := math.Inf(1)
	for _, l := range links {
		f.links[f.count], f.places[f.count] = l, len(l.flows)
		l.flows = append(l.flows, place{f, f.count})
		f.count++
		if l.index < 0 {
			l.index = len(n.active)
			n.active = append(n.active, l)
		}
		rate = min(rate, l.free)
	}
	if n.step > 0 && rate > 0 {
		n.give(f, rate)
	}
	n.changed()
	return f
}

// give sets the rate of a flow that has none.
func (n *Network) give(f *Flow, rate float64) {
	f.rate = rate
	for _, l := range f.links[:f.count] {
		l.free -= rate
	}
	f.ends = endOf(f, n.clock.Now())
	if f.ends <= n.until {
		n.insert(f)
	}
}

// Cancel ends a flow before all bytes have arrived and returns how many have
// not. One that has ended already is left alone.
func (n *Network) Cancel(f *Flow) float64 {
	if f == nil || f.index < 0 {
		return 0
	}
	left := max(f.remaining-f.rate*(n.clock.Now()-f.updated).Seconds(), 0)
	n.remove(f)
	if f.soon {
		i := slices.Index(n.soon, f)
		n.soon = slices.Delete(n.soon, i, i+1)
	}
	n.changed()
	return left
}

func (n *Network) remove(f *Flow) {
	last := len(n.flows) - 1
	n.flows[f.index] = n.flows[last]
	n.flows[f.index].index = f.index
	n.flows[last] = nil
	n.flows = n.flows[:last]
	f.index = -1
	for side, l := range f.links[:f.count] {
		l.free += f.rate
		end := len(l.flows) - 1
		moved := l.flows[end]
		l.flows[f.places[side]] = moved
		moved.flow.places[moved.side] = f.places[side]
		l.flows[end] = place{}
		l.flows = l.flows[:end]
		if end == 0 {
			l.free = l.capacity
			other := n.active[len(n.active)-1]
			n.active[l.index] = other
			other.index = l.index
			n.active = n.active[:len(n.active)-1]
			l.index = -1
		}
	}
}

// changed has the rates found when the step is over.
func (n *Network) changed() {
	if !n.solve.Set() {
		n.clock.Reset(n.solve, n.solved+n.step)
	}
}

// ended ends the flows whose time it is.
func (n *Network) ended() {
	now := n.clock.Now()
	var over []*Flow
	for len(n.soon) > 0 && n.soon[len(n.soon)-1].ends <= now {
		f := n.soon[len(n.soon)-1]
		n.soon = n.soon[:len(n.soon)-1]
		n.remove(f)
		over = append(over, f)
	}
	n.arm()
	if len(over) > 0 {
		n.changed()
	}
	for _, f := range over {
		f.done()
	}
}

// arm sets the timer to the next end, or to where the ends are not known yet.
func (n *Network) arm() {
	switch {
	case len(n.soon) > 0:
		n.clock.Reset(n.finish, n.soon[len(n.soon)-1].ends)
	case len(n.flows) > 0 && !n.solve.Set():
		n.clock.Reset(n.solve, n.until)
	}
}

func (n *Network) insert(f *Flow) {
	i, _ := slices.BinarySearchFunc(n.soon, f.ends, func(other *Flow, ends time.Duration) int {
		return cmp.Compare(ends, other.ends)
	})
	f.soon = true
	n.soon = slices.Insert(n.soon, i, f)
	if i == len(n.soon)-1 {
		n.clock.Reset(n.finish, f.ends)
	}
}

// share finds all rates and lists the flows that end until the next step.
func (n *Network) share() {
	now := n.clock.Now()
	n.solved = now
	n.solves++
	for _, f := range n.flows {
		f.remaining -= f.rate * (now - f.updated).Seconds()
		f.updated, f.rate, f.soon = now, -1, false
	}
	n.fill()
	first := time.Duration(math.MaxInt64)
	for _, f := range n.flows {
		f.ends = endOf(f, now)
		first = min(first, f.ends)
	}
	n.until = max(now+n.step, first)
	n.soon = n.soon[:0]
	for _, f := range n.flows {
		if f.ends <= n.until {
			f.soon = true
			n.soon = append(n.soon, f)
		}
	}
	slices.SortFunc(n.soon, func(a, b *Flow) int {
		return cmp.Or(cmp.Compare(b.ends, a.ends), cmp.Compare(b.index, a.index))
	})
	n.clock.Stop(n.finish)
	n.arm()
}

func endOf(f *Flow, now time.Duration) time.Duration {
	if f.rate <= 0 {
		return math.MaxInt64
	}
	seconds := max(f.remaining, 0) / f.rate
	if seconds > 1e6 {
		return math.MaxInt64
	}
	return now + time.Duration(math.Ceil(seconds*float64(time.Second)))
}
