package swarm

import (
	"time"
)

// transfer is one piece on its way to one peer. It takes a slot at both ends.
type transfer struct {
	num             int32
	to              *Peer
	from            *Peer    // nil when a CDN copy sends it
	cdn             *cdnCopy // that copy
	length          int32
	started         time.Time
	pullsSinceAsked int       // of a migrant since it was asked of the piece
	confirmed       bool      // a migrant was heard to be fetching it
	expires         time.Time // the slots are free again then, whatever has become of it
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

func (s *Swarm) startTransfer(t *transfer, now time.Time) {
	s.offered = true
	if !t.to.originKnown {
		t.to.originKnown = true
		s.changes.addPeer(t.to.ID)
	}
	t.started, t.expires = now, now.Add(lease(t.length))
	t.to.running[t.num] = t
	if t.to.lastFailure.num == t.num {
		t.to.lastFailure = failureReport{}
	}
	s.pieces[t.num].transfers[t] = struct{}{}
	if t.from != nil {
		t.from.uploads++
	} else {
		t.cdn.transfers++
	}
}

// endTransfer frees both slots.
func (s *Swarm) endTransfer(t *transfer) {
	delete(t.to.running, t.num)
	delete(s.pieces[t.num].transfers, t)
	if t.from != nil {
		t.from.uploads--
		return
	}
	t.cdn.transfers--
	s.budget.Give(t.cdn.Instance, int64(t.length))
}

func (s *Swarm) completeTransfer(t *transfer, now time.Time) {
	s.endTransfer(t)
	if t.from == nil {
		delete(t.to.copyFailures, t.cdn.Instance)
		return
	}
	t.to.fetchFailures = 0
	t.from.uploadFailures = 0
	if t.to.migrant {
		return // it may have had the piece
	}
	took := now.Sub(t.started)
	if t.from.pieceTime == 0 {
		t.from.pieceTime = took
	}
	t.from.pieceTime += (took - t.from.pieceTime) / 4
}

func (s *Swarm) endDownloads(p *Peer) {
	for _, t := range p.running {
		s.endTransfer(t)
	}
}

// endUploads ends what others were fetching from p.
func (s *Swarm) endUploads(p *Peer) {
	if p.uploads == 0 {
		return
	}
	s.endTransfersIf(func(t *transfer) bool { return t.from == p })
}

// endTransfersIf ends the transfers whose source is lost.
func (s *Swarm) endTransfersIf(lost func(*transfer) bool) {
	for _, state := range s.pieces {
		for t := range state.transfers {
			if lost(t) {
				s.endTransfer(t)
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
			s.endTransfer(t)
		}
	}
}

// Tick lets time pass: leases end, written pieces can be served, and what a
// peer avoided comes back.
func (s *Swarm) Tick(now time.Time) {
	for _, p := range s.peers {
		for _, t := range p.running {
			if now.After(t.expires) {
				s.endTransfer(t)
			}
		}
		for num, since := range p.writing {
			if now.Sub(since) >= writeGrace {
				s.changes.addPeerPiece(p.ID, num)
				s.serve(p, num)
			}
		}
		for id, until := range p.avoids {
			if now.After(until) {
				delete(p.avoids, id)
			}
		}
		for instance, failures := range p.copyFailures {
			if now.Sub(failures.pausedUntil) > avoidFor {
				delete(p.copyFailures, instance)
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
		s.endDownloads(p)
	}
}
