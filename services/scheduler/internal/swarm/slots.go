package swarm

import (
	"time"
)

// transfer is one piece on its way to one peer. It takes a slot at both ends.
type transfer struct {
	num     int32
	to      *Peer
	from    *Peer    // nil when a CDN copy sends it
	cdn     *cdnCopy // that copy
	length  int32
	started time.Time
	pulls   int       // of a migrant since it was asked of the piece
	sure    bool      // a migrant was heard to be fetching it
	until   time.Time // the slots are free again then, whatever has become of it
}

const (
	// A slot's lease: what a piece takes at a rate that still counts as
	// alive, and some more. A peer that is slower than that only makes its
	// source look less busy than it is.
	leaseBase = 10 * time.Second
	leaseRate = 512 << 10 // bytes a second
)

func lease(length int32) time.Duration {
	return leaseBase + time.Duration(length)*time.Second/leaseRate
}

func (s *Swarm) start(t *transfer, now time.Time) {
	s.given = true
	if !t.to.known {
		t.to.known = true
		s.ledger.peer(t.to.ID)
	}
	t.started, t.until = now, now.Add(lease(t.length))
	t.to.running[t.num] = t
	if t.to.failed.num == t.num {
		t.to.failed = failure{}
	}
	s.chunks[t.num].flights[t] = struct{}{}
	if t.from != nil {
		t.from.uploads++
	} else {
		t.cdn.flights++
	}
}

// end frees both slots.
func (s *Swarm) end(t *transfer) {
	delete(t.to.running, t.num)
	delete(s.chunks[t.num].flights, t)
	if t.from != nil {
		t.from.uploads--
		return
	}
	t.cdn.flights--
	s.budget.Give(t.cdn.Instance, int64(t.length))
}

func (s *Swarm) succeeded(t *transfer, now time.Time) {
	s.end(t)
	if t.from == nil {
		delete(t.to.sulks, t.cdn.Instance)
		return
	}
	t.to.fetchRow = 0
	t.from.failedRow = 0
	if t.to.migrant {
		return // it may have had the piece
	}
	took := now.Sub(t.started)
	if t.from.took == 0 {
		t.from.took = took
	}
	t.from.took += (took - t.from.took) / 4
}

func (s *Swarm) dropRunning(p *Peer) {
	for _, t := range p.running {
		s.end(t)
	}
}

// dropSending ends what others were fetching from p.
func (s *Swarm) dropSending(p *Peer) {
	if p.uploads == 0 {
		return
	}
	s.endFrom(func(t *transfer) bool { return t.from == p })
}

// endFrom ends the transfers whose source is lost.
func (s *Swarm) endFrom(lost func(*transfer) bool) {
	for _, ch := range s.chunks {
		for t := range ch.flights {
			if lost(t) {
				s.end(t)
			}
		}
	}
}

// Undelivered takes back offers that never reached the peer.
func (s *Swarm) Undelivered(id string, offers []Offer) {
	p := s.peers[id]
	if p == nil {
		return
	}
	for _, o := range offers {
		// The piece may have been offered again meanwhile.
		if t := p.running[o.Num]; t != nil && t == o.transfer {
			s.end(t)
		}
	}
}

// Tick lets time pass: leases end, written pieces can be served, and what a
// peer avoided comes back.
func (s *Swarm) Tick(now time.Time) {
	for _, p := range s.peers {
		for _, t := range p.running {
			if now.After(t.until) {
				s.end(t)
			}
		}
		for num, since := range p.writing {
			if now.Sub(since) >= writeGrace {
				s.ledger.pieceOf(p.ID, num)
				s.serve(p, num)
			}
		}
		for id, until := range p.avoids {
			if now.After(until) {
				delete(p.avoids, id)
			}
		}
		for instance, sulk := range p.sulks {
			if now.Sub(sulk.until) > avoidFor {
				delete(p.sulks, instance)
			}
		}
	}
}

// Busy tells whether anything is under way that time alone can change.
func (s *Swarm) Busy() bool {
	for _, p := range s.peers {
		if len(p.running)+len(p.writing) > 0 {
			return true
		}
	}
	return false
}

// Close gives back what the swarm has taken from the budget.
func (s *Swarm) Close() {
	for _, p := range s.peers {
		s.dropRunning(p)
	}
}
