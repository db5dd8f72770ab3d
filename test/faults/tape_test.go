package faults

import (
	"slices"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/peer"
)

// tape is when right pieces came to which peer.
type tape struct {
	mu       sync.Mutex // guards arrivals
	arrivals [][]time.Time
}

func newTape(peers int) *tape { return &tape{arrivals: make([][]time.Time, peers)} }

// of gives the observer of a peer.
func (r *tape) of(p int) func(peer.Event) {
	return func(e peer.Event) {
		if e.Kind != peer.Arrived {
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.arrivals[p] = append(r.arrivals[p], e.Time)
	}
}

// stall is how long what was under way stood still after a moment.
type stall struct {
	// first is until the next piece came to anybody, half and last until half
	// of the peers, and all, had got one. Peers that were through do not count.
	first, half, last time.Duration
	// gap is the longest time in which nobody got anything.
	gap time.Duration
}

func (r *tape) after(moment time.Time) stall {
	r.mu.Lock()
	defer r.mu.Unlock()
	var nexts []time.Duration
	all := []time.Duration{0}
	for _, list := range r.arrivals {
		later := slices.DeleteFunc(slices.Clone(list), func(at time.Time) bool { return at.Before(moment) })
		slices.SortFunc(later, time.Time.Compare)
		for i, at := range later {
			if i == 0 {
				nexts = append(nexts, at.Sub(moment))
			}
			all = append(all, at.Sub(moment))
		}
	}
	if len(nexts) == 0 {
		return stall{}
	}
	slices.Sort(nexts)
	slices.Sort(all)
	s := stall{first: nexts[0], half: nexts[len(nexts)/2], last: nexts[len(nexts)-1]}
	for i := 1; i < len(all); i++ {
		s.gap = max(s.gap, all[i]-all[i-1])
	}
	return s
}
