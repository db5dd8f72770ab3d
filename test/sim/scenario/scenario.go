// Package scenario describes what is simulated: hosts, links, files, arrivals
// and faults.
package scenario

import (
	"slices"
	"time"
)

// Mbit is a million bits a second, in bytes a second.
const Mbit = 1e6 / 8

// MB is a million bytes.
const MB = 1_000_000

// Hosts are hosts of one kind that download.
type Hosts struct {
	// Count is how many there are, for each task.
	Count int
	// Up and Down are the rates of their links in bytes a second.
	Up, Down float64
}

// Scenario is one thing to simulate.
type Scenario struct {
	// Name names it on the command line, Title in tables.
	Name, Title string
	// Hosts are those that download.
	Hosts []Hosts
	// Length is that of the file in bytes; each of Tasks has one and peers of its own.
	Length int64
	Tasks  int
	// CDN is the rate of each CDN instance's link in bytes a second, both ways;
	// every task is at Instances of them. The scheduler is on the first one's host.
	CDN       float64
	Instances int
	// Source is the rate of the source's link.
	Source float64
	// Spread is the time within which all start, Trickle the same for arrivals that
	// are part of the scenario: a peer's time counts from its own.
	Spread, Trickle time.Duration
	// Unreachable is the share of the peers to which no other can connect.
	Unreachable float64
	// Crash is the share of the peers whose client is killed in the middle of the
	// download: the kernel of its host resets its connections. Vanish is the share
	// of those whose host disappears: what it was sending hangs.
	Crash, Vanish float64
	// Hang is the share of the transfers between peers that stop for ever.
	Hang float64
	// LocalLimit is the client's limit for a download in bytes a second, 0 for none.
	LocalLimit float64
	// Large marks scenarios that take minutes.
	Large bool
}

// Count returns the number of peers of one task.
func (s *Scenario) Count() int {
	n := 0
	for _, h := range s.Hosts {
		n += h.Count
	}
	return n
}

// Bound returns the time below which no policy can get: what the slowest peer,
// the source, a CDN instance, and all links together need. Peers that cannot
// send, and those that crash, count as far as they can help.
func (s *Scenario) Bound() time.Duration {
	length := float64(s.Length)
	tasks := float64(s.Tasks)
	slowest := s.CDN
	up, peers := 0.0, 0.0
	for _, h := range s.Hosts {
		down := h.Down
		if s.LocalLimit > 0 {
			down = min(down, s.LocalLimit)
		}
		slowest = min(slowest, down)
		alive := float64(h.Count) * (1 - s.Crash - s.Vanish)
		peers += alive
		up += alive * (1 - s.Unreachable) * h.Up
	}
	cdn := s.CDN * float64(s.Instances)
	seconds := max(length/slowest, length*tasks/s.CDN, length*tasks/s.Source, peers*tasks*length/(cdn+tasks*up))
	return time.Duration(seconds * float64(time.Second))
}

// Capacity returns the bytes a second that can reach peers: what all can send, but
// no more than all can receive.
func (s *Scenario) Capacity() float64 {
	up, down := s.CDN*float64(s.Instances), 0.0
	for _, h := range s.Hosts {
		n := float64(h.Count*s.Tasks) * (1 - s.Crash - s.Vanish)
		up += n * (1 - s.Unreachable) * h.Up
		rate := h.Down
		if s.LocalLimit > 0 {
			rate = min(rate, s.LocalLimit)
		}
		down += n * rate
	}
	return min(up, down)
}

// Small returns the scenario with at most so many peers a task and bytes, for
// tests. Its rates shrink with the file, so that it keeps its proportions.
func (s Scenario) Small(peers int, length int64) Scenario {
	total := s.Count()
	if total > peers {
		s.Hosts = slices.Clone(s.Hosts)
		for i := range s.Hosts {
			s.Hosts[i].Count = max(s.Hosts[i].Count*peers/total, 1)
		}
	}
	s.Length = min(s.Length, length)
	return s
}
