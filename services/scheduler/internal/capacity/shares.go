// Package capacity holds how many transfers this scheduler may have in flight
// from every CDN instance, and divides that among the scheduler's tasks. The
// instance decides the number, since other schedulers use it too: an Exchange
// keeps a stream to each, on which it reports the demand and receives the window.
// An instance without a stream has the default window. What a transfer is, and
// which piece it carries, is the tasks' business.
//
// A task may always have one transfer in flight. Beyond that it gets an equal
// share of the window, and what the other tasks leave.
package capacity

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	// Default is the window of an instance that has not granted one.
	Default = 8
	// most bounds a granted window.
	most = 1 << 16
	// recent is how long a task counts as wanting transfers after it asked.
	recent = 2 * time.Second
	// woken is how many refused tasks are woken by a transfer that ended: the
	// first may need it no more.
	woken = 4
)

// Shares holds, for every CDN instance, how many transfers this scheduler may
// have in flight, and divides that among its tasks. It is safe for concurrent use.
type Shares struct {
	refusals prometheus.Counter

	mu        sync.Mutex // guards instances and all that is in them
	instances map[string]*instance
}

// instance is what is known of a CDN instance. The lock of Shares guards it.
type instance struct {
	window   int // granted; 0 is the default
	rate     int64
	inFlight int
	limited  bool // a transfer was refused since Demand was called
	uses     map[*Task]*use
	asked    queue // tasks that asked of late
	refused  queue // tasks that were refused of late
}

// use is what a task has of an instance.
type use struct{ inFlight int }

// NewShares returns shares in which every instance has the default window.
func NewShares() *Shares {
	return &Shares{
		refusals: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_scheduler_cdn_refusals_total",
			Help: "Transfers that were not handed out because the CDN's window, or the task's share of it, was used up.",
		}),
		instances: make(map[string]*instance),
	}
}

// Collectors returns the metrics, to be registered.
func (s *Shares) Collectors() []prometheus.Collector { return []prometheus.Collector{s.refusals} }

// Grant sets the window of an instance.
func (s *Shares) Grant(name string, window int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.at(name)
	before := in.size()
	in.window = min(max(window, 1), most)
	if in.size() > before {
		in.refused.wake(in.refused.len())
	}
}

// Deliver sets the number of bytes per second that an instance sends to all peers.
func (s *Shares) Deliver(name string, rate int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at(name).rate = max(rate, 0)
}

// Reset gives an instance the default window again, and no delivery rate.
func (s *Shares) Reset(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.instances[name]
	if in == nil {
		return
	}
	before := in.size()
	in.window, in.rate = 0, 0
	if in.size() > before {
		in.refused.wake(in.refused.len())
	}
	s.tidy(name, in)
}

// Demand returns the number of transfers in flight from an instance, and whether
// one was refused since the last call.
func (s *Shares) Demand(name string) (inFlight int, limited bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.instances[name]
	if in == nil {
		return 0, false
	}
	limited = in.limited
	in.limited = false
	return in.inFlight, limited
}

// Rate returns the number of bytes per second that an instance sends to all
// peers, 0 if it is unknown.
func (s *Shares) Rate(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if in := s.instances[name]; in != nil {
		return in.rate
	}
	return 0
}

// at returns an instance, which is made if need be. The caller holds mu.
func (s *Shares) at(name string) *instance {
	in := s.instances[name]
	if in == nil {
		in = &instance{uses: make(map[*Task]*use), asked: newQueue(), refused: newQueue()}
		s.instances[name] = in
	}
	return in
}

// tidy removes an instance that nothing is known of. The caller holds mu.
func (s *Shares) tidy(name string, in *instance) {
	if in.window == 0 && in.rate == 0 && len(in.uses) == 0 {
		delete(s.instances, name)
	}
}

// size returns the window that is in effect.
func (in *instance) size() int {
	if in.window == 0 {
		return Default
	}
	return in.window
}

// room returns how many more transfers a task may take that uses some already.
func (in *instance) room(t *Task, used int, now time.Time) int {
	in.asked.expire(now)
	in.refused.expire(now)
	wanting := max(in.asked.lenWith(t), 1)
	share := (in.size() + wanting - 1) / wanting
	free := in.size() - in.inFlight
	// Beyond its share a task leaves a transfer for each other one that was refused.
	beyond := free - (in.refused.lenWith(t) - 1)
	first := 0
	if used == 0 {
		first = 1
	}
	return max(min(free, share-used), beyond, first, 0)
}
