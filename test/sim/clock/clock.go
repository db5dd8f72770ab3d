// Package clock runs events in the order of a virtual time. Events at the same
// time run in the order in which they were set, so that a run can be repeated.
// A Clock and its timers belong to one goroutine.
package clock

import "time"

// Timer is an event that is set, or was.
type Timer struct {
	index int // in the heap, -1 when it is not set
	at    time.Duration
	run   func()
}

// Set tells whether the event is still to come.
func (t *Timer) Set() bool { return t != nil && t.index >= 0 }

// At returns the time for which it is, or was, set.
func (t *Timer) At() time.Duration { return t.at }

// entry is a timer in the heap.
type entry struct {
	at    time.Duration
	order uint64
	timer *Timer
}

func (e entry) before(other entry) bool {
	return e.at < other.at || e.at == other.at && e.order < other.order
}

// Clock is the virtual time and what will happen. The zero value stands at 0.
type Clock struct {
	now    time.Duration
	orders uint64
	heap   []entry // every parent comes before its four children
	ran    int64
}

// Now returns the virtual time since the start.
func (c *Clock) Now() time.Duration { return c.now }

// Ran returns the number of events that have run.
func (c *Clock) Ran() int64 { return c.ran }

// After sets an event d from now.
func (c *Clock) After(d time.Duration, run func()) *Timer {
	t := &Timer{index: -1, run: run}
	c.Reset(t, c.now+max(d, 0))
	return t
}

// New makes a timer that is not set yet.
func New(run func()) *Timer { return &Timer{index: -1, run: run} }

// Reset sets a timer, or moves it. A time in the past is now.
func (c *Clock) Reset(t *Timer, at time.Duration) {
	c.orders++
	t.at = max(at, c.now)
	e := entry{at: t.at, order: c.orders, timer: t}
	if t.index < 0 {
		t.index = len(c.heap)
		c.heap = append(c.heap, e)
	} else {
		c.heap[t.index] = e
	}
	c.down(c.up(t.index))
}

// Stop removes a timer. One that is not set, or nil, is left alone.
func (c *Clock) Stop(t *Timer) {
	if !t.Set() {
		return
	}
	i, last := t.index, len(c.heap)-1
	t.index = -1
	if i != last {
		c.heap[i] = c.heap[last]
		c.heap[i].timer.index = i
	}
	c.heap[last] = entry{}
	c.heap = c.heap[:last]
	if i != last {
		c.down(c.up(i))
	}
}

// Step runs the next event. It returns false when there is none, or none until
// the given time.
func (c *Clock) Step(until time.Duration) bool {
	if len(c.heap) == 0 || c.heap[0].at > until {
		return false
	}
	e := c.heap[0]
	c.Stop(e.timer)
	c.now = e.at
	c.ran++
	e.timer.run()
	return true
}

const children = 4

func (c *Clock) up(i int) int {
	e := c.heap[i]
	for i > 0 {
		parent := (i - 1) / children
		if !e.before(c.heap[parent]) {
			break
		}
		c.heap[i] = c.heap[parent]
		c.heap[i].timer.index = i
		i = parent
	}
	c.heap[i] = e
	e.timer.index = i
	return i
}

func (c *Clock) down(i int) {
	e := c.heap[i]
	for {
		first := i*children + 1
		if first >= len(c.heap) {
			break
		}
		least := first
		for child := first + 1; child < min(first+children, len(c.heap)); child++ {
			if c.heap[child].before(c.heap[least]) {
				least = child
			}
		}
		if !c.heap[least].before(e) {
			break
		}
		c.heap[i] = c.heap[least]
		c.heap[i].timer.index = i
		i = least
	}
	c.heap[i] = e
	e.timer.index = i
}
