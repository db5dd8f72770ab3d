package swarm

import (
	"errors"
	"time"
)

// origin says whether a peer may have pieces that were never reported to this
// swarm. It is replicated, so that it survives the scheduler.
//
//	newcomer --it is offered a piece----------------------> resident
//	newcomer --its first report names a piece that exists--> migrant
type origin uint8

const (
	newcomer origin = iota // it was offered nothing and has reported nothing
	resident               // all that it has was reported to this swarm
	migrant                // it has pieces that were not
)

// originOf returns the origin that was replicated.
func originOf(u PeerUpdate) origin {
	switch {
	case u.Migrant:
		return migrant
	case u.Newcomer:
		return newcomer
	}
	return resident
}

// A migrant is a peer that has pieces that were never reported to this swarm: it
// downloaded them while another scheduler answered for the task, and that
// scheduler died together with the replicas of its state. The migrant's pieces
// are learned from its answers to offers. A dfget client answers in these ways:
//
//   - Of all offered pieces that it has it reports only the last one, at once.
//     It never reports the others: their transfers would last until their leases
//     expire, and the pieces would have to be offered again.
//   - While it downloads more than two pieces it does not report even that one.
//   - If it has none of the offered pieces, it reports when one has arrived.
//
// Therefore a migrant is offered one new piece at a time, and no new piece while
// it downloads more than two. If it may be downloading other pieces at that
// moment, a piece that it is known to have, the sentinel, is offered before the
// new one. Its next report then tells which of both it is:
//
//	asked --it reports the piece----------> the migrant has it: the transfer ends
//	asked --it reports the sentinel-------> confirmed: it is downloading the piece
//	asked --askAgainAfter pulls, neither--> asked again: another download ended at
//	                                        the same moment, and the report is lost
//	confirmed --success or failure--------> the transfer ends

const (
	// maxMigrantFetches is the maximum number of pieces that a migrant may be
	// downloading. It would not report a piece that it has beyond that.
	maxMigrantFetches = 3
	// askAgainAfter is the number of pulls after which a migrant is offered a
	// piece again whose outcome it has not reported. That many other downloads
	// may end before that of the piece.
	askAgainAfter = maxMigrantFetches
)

// sentinel is a piece that a migrant is known to have, and the transfer that was
// offered behind it.
type sentinel struct {
	num      int32
	set      bool
	precedes *transfer
}

// validateReport checks the piece that a peer reports. A peer whose first report
// names a piece that this swarm has not offered to it is a migrant.
func (s *Swarm) validateReport(p *Peer, num, size int32) error {
	err := s.checkPiece(num, size)
	if p.origin == newcomer && (err == nil || errors.Is(err, ErrNotYet)) {
		p.origin = migrant
		s.changes.addPeer(p.ID)
	}
	return err
}

// setSentinel makes the first piece that a migrant is known to have its sentinel.
func (p *Peer) setSentinel(num int32) {
	if p.origin == migrant && !p.sentinel.set {
		p.sentinel = sentinel{num: num, set: true}
	}
}

// sentinelReported handles a report of the sentinel: the piece that was offered
// behind it is being downloaded.
func (p *Peer) sentinelReported(num int32) {
	if p.sentinel.set && p.sentinel.num == num && p.sentinel.precedes != nil {
		p.sentinel.precedes.confirmed = true
	}
}

// offerMigrant offers a migrant one piece: a new one, or one whose outcome it has
// not reported.
func (s *Swarm) offerMigrant(p *Peer, now time.Time) []Offer {
	p.sentinel.precedes = nil
	unanswered := p.oldestUnanswered()
	if unanswered != nil && unanswered.pullsSinceAsked >= askAgainAfter {
		return s.askMigrantAgain(p, unanswered)
	}
	limit := min(s.limits.Down, maxMigrantFetches)
	if len(p.running) < limit {
		c := choice{s: s, p: p, now: now, room: 1}
		if !now.Before(p.cdnOnlyUntil) || len(s.copies) == 0 {
			c.fromPeers()
		}
		if len(c.offers) == 0 {
			c.fromCDN(1)
		}
		if len(c.offers) > 0 {
			return s.askMigrant(p, c.offers[0].transfer, len(p.running) < limit)
		}
	}
	if unanswered != nil {
		return s.askMigrantAgain(p, unanswered)
	}
	return nil
}

// oldestUnanswered returns the transfer that was offered longest ago and whose
// outcome the peer has not reported, or nil.
func (p *Peer) oldestUnanswered() *transfer {
	var first *transfer
	for _, t := range p.running {
		if !t.confirmed && (first == nil || t.pullsSinceAsked > first.pullsSinceAsked) {
			first = t
		}
	}
	return first
}

// askMigrantAgain repeats the offer of t behind the sentinel.
func (s *Swarm) askMigrantAgain(p *Peer, t *transfer) []Offer {
	if !p.sentinel.set {
		return nil // a peer does not report a repeated offer that it is still downloading
	}
	offers := s.askMigrant(p, t, true)
	t.pullsSinceAsked = 0
	last := &offers[len(offers)-1]
	last.Repeated, last.transfer = true, nil // the transfer is not this offer's to end
	return offers
}

// askMigrant offers the piece of t, behind the sentinel if withSentinel is set:
// then the peer's next report tells whether it has the piece.
func (s *Swarm) askMigrant(p *Peer, t *transfer, withSentinel bool) []Offer {
	for _, other := range p.running {
		other.pullsSinceAsked++
	}
	asked := s.makeOffer(t)
	if !withSentinel || !p.sentinel.set {
		return []Offer{asked}
	}
	p.sentinel.precedes = t
	state := s.pieces[p.sentinel.num]
	first := asked
	first.Num, first.MD5, first.Length, first.Repeated, first.transfer = p.sentinel.num, state.md5, state.length, true, nil
	return []Offer{first, asked}
}
