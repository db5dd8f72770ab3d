package faults

import (
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/supernode-ha/supernode/test/peer"
)

// tape is when right pieces came to which peer, and what went wrong with others.
type tape struct {
	mu       sync.Mutex // guards what follows
	arrivals [][]time.Time
	failures []string
	// broken counts the failures without those that are excused.
	broken int
}

func newTape(peers int) *tape { return &tape{arrivals: make([][]time.Time, peers)} }

// of gives the observer of a peer.
func (r *tape) of(p int) func(peer.Event) {
	return func(e peer.Event) {
		r.mu.Lock()
		defer r.mu.Unlock()
		switch e.Kind {
		case peer.Arrived:
			r.arrivals[p] = append(r.arrivals[p], e.Time)
		case peer.Failed:
			if !excused(e.Err) {
				r.broken++
			}
			r.failures = append(r.failures, fmt.Sprintf("%s peer %d, piece %d from %s: %v", e.Time.Format("05.000"), p, e.Piece, e.From, e.Err))
		default:
		}
	}
}

// excused are senders that did not accept a connection within the second that
// clients give, or gave one up that nothing had come over: a machine on which
// all of this runs at once is too slow at times.
func excused(err error) bool {
	if timeout := net.Error(nil); errors.As(err, &timeout) && timeout.Timeout() {
		return true
	}
	return errors.Is(err, peer.ErrNoAnswer) &&
		slices.ContainsFunc([]error{io.EOF, syscall.ECONNRESET, syscall.EPIPE}, func(e error) bool { return errors.Is(err, e) })
}

// failed tells of the pieces that did not arrive right, and how many of them
// count.
func (r *tape) failed() (told string, broken int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	const most = 12
	return strings.Join(r.failures[:min(len(r.failures), most)], "\n"), r.broken
}

// stall is how long what was under way stood still after a moment.
type stall struct {
	// first is until the next piece came to anybody, half and last until half
	// of the peers, and all, had got one. Peers that were through do not count.
	first, half, last time.Duration
	// most is until 99 of 100 had.
	most time.Duration
	// gap is the longest time in which nobody got anything.
	gap time.Duration
}

func (s stall) String() string {
	return fmt.Sprintf("p50 %s, p99 %s, last %s", s.half.Round(time.Millisecond), s.most.Round(time.Millisecond), s.last.Round(time.Millisecond))
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
	s := stall{first: nexts[0], half: nexts[len(nexts)/2], most: nexts[(len(nexts)-1)*99/100], last: nexts[len(nexts)-1]}
	for i := 1; i < len(all); i++ {
		s.gap = max(s.gap, all[i]-all[i-1])
	}
	return s
}
