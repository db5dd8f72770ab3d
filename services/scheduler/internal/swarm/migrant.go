package swarm

import (
	"errors"
	"time"
)

// A migrant is a peer that has pieces which nobody here was told of: its
// scheduler died with all who remembered. What it has is learned from its answers
// to offers, and dfget answers in a way of its own:
//
//   - of the offered pieces that it has it tells the last one only, at once,
//     and never again of the others: their slots would be taken for as long
//     as a lease, and they would have to be offered again;
//   - while it is fetching more than two it does not tell even that;
//   - when it has none of them it says nothing before one has arrived.
//
// So a migrant is asked of one piece at a time, while it fetches two at most. If
// it might fetch more at the same time, one that it is known to have is put
// before the new one, for a bell: when that is what it tells next, it is
// fetching the new one. An answer is lost when another piece ends at that very
// moment; then it is asked again.

const (
	// maxMigrantFetches is how many pieces a migrant may be fetching: of one more that
	// it has it would tell nothing.
	maxMigrantFetches = 3
	// askAgainAfter is how many pulls go by before it is asked again of a piece. As
	// many others may end before it while it is being fetched.
	askAgainAfter = maxMigrantFetches
)

// sentinel is the piece that a migrant is known to have, and the one that was
// offered behind it.
type sentinel struct {
	num      int32
	set      bool
	precedes *transfer
}

// validateReport checks what a peer tells of a piece. One that begins with a piece which
// nobody here offered is a migrant.
func (s *Swarm) validateReport(p *Peer, num, size int32) error {
	err := s.checkPiece(num, size)
	if !p.originKnown && (err == nil || errors.Is(err, ErrNotYet)) {
		p.migrant, p.originKnown = true, true
		s.changes.addPeer(p.ID)
	}
	return err
}

// setSentinel takes the first piece that a migrant is known to have for its bell.
func (p *Peer) setSentinel(num int32) {
	if p.migrant && !p.sentinel.set {
		p.sentinel = sentinel{num: num, set: true}
	}
}

// sentinelReported notes that a peer tells of its bell alone: what was offered behind it
// is on its way.
func (p *Peer) sentinelReported(num int32) {
	if p.sentinel.set && p.sentinel.num == num && p.sentinel.precedes != nil {
		p.sentinel.precedes.confirmed = true
	}
}

// offerMigrant asks a migrant of one piece: of a new one, or of one that it has
// said nothing of.
func (s *Swarm) offerMigrant(p *Peer, now time.Time) []Offer {
	p.sentinel.precedes = nil
	unanswered := p.oldestUnanswered()
	if unanswered != nil && unanswered.pullsSinceAsked >= askAgainAfter {
		return s.askMigrantAgain(p, unanswered)
	}
	limit := min(s.limits.Down, maxMigrantFetches)
	if len(p.running) < limit {
		for _, num := range s.missingPieces(p) {
			if t := s.chooseSource(p, num, now); t != nil {
				s.startTransfer(t, now)
				return s.askMigrant(p, t, len(p.running) < limit)
			}
		}
	}
	if unanswered != nil {
		return s.askMigrantAgain(p, unanswered)
	}
	return nil
}

// oldestUnanswered is what a migrant was asked of longest ago of what it has not told of.
func (p *Peer) oldestUnanswered() *transfer {
	var first *transfer
	for _, t := range p.running {
		if !t.confirmed && (first == nil || t.pullsSinceAsked > first.pullsSinceAsked) {
			first = t
		}
	}
	return first
}

func (s *Swarm) askMigrantAgain(p *Peer, t *transfer) []Offer {
	if !p.sentinel.set {
		return nil // it would say nothing, as long as it fetches it
	}
	offers := s.askMigrant(p, t, true)
	t.pullsSinceAsked = 0
	offers[len(offers)-1].Repeated = true
	return offers
}

// askMigrant offers what t is to bring, behind the bell if an answer is wanted at once.
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
