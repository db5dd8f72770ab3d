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
	// mostFetched is how many pieces a migrant may be fetching: of one more that
	// it has it would tell nothing.
	mostFetched = 3
	// patience is how many pulls go by before it is asked again of a piece. As
	// many others may end before it while it is being fetched.
	patience = mostFetched
)

// bell is the piece that a migrant is known to have, and the one that was
// offered behind it.
type bell struct {
	num  int32
	hung bool
	of   *transfer
}

// told checks what a peer tells of a piece. One that begins with a piece which
// nobody here offered is a migrant.
func (s *Swarm) told(p *Peer, num, size int32) error {
	err := s.landed(num, size)
	if !p.known && (err == nil || errors.Is(err, ErrNotYet)) {
		p.migrant, p.known = true, true
		s.ledger.peer(p.ID)
	}
	return err
}

// hangBell takes the first piece that a migrant is known to have for its bell.
func (p *Peer) hangBell(num int32) {
	if p.migrant && !p.bell.hung {
		p.bell = bell{num: num, hung: true}
	}
}

// rang notes that a peer tells of its bell alone: what was offered behind it
// is on its way.
func (p *Peer) rang(num int32) {
	if p.bell.hung && p.bell.num == num && p.bell.of != nil {
		p.bell.of.sure = true
	}
}

// offerMigrant asks a migrant of one piece: of a new one, or of one that it has
// said nothing of.
func (s *Swarm) offerMigrant(p *Peer, now time.Time) []Offer {
	p.bell.of = nil
	silent := p.silent()
	if silent != nil && silent.pulls >= patience {
		return s.askAgain(p, silent)
	}
	most := min(s.limits.Down, mostFetched)
	if len(p.running) < most {
		for _, num := range s.wanted(p) {
			if t := s.source(p, num, now); t != nil {
				s.start(t, now)
				return s.ask(p, t, len(p.running) < most)
			}
		}
	}
	if silent != nil {
		return s.askAgain(p, silent)
	}
	return nil
}

// silent is what a migrant was asked of longest ago of what it has not told of.
func (p *Peer) silent() *transfer {
	var first *transfer
	for _, t := range p.running {
		if !t.sure && (first == nil || t.pulls > first.pulls) {
			first = t
		}
	}
	return first
}

func (s *Swarm) askAgain(p *Peer, t *transfer) []Offer {
	if !p.bell.hung {
		return nil // it would say nothing, as long as it fetches it
	}
	offers := s.ask(p, t, true)
	t.pulls = 0
	offers[len(offers)-1].Known = true
	return offers
}

// ask offers what t is to bring, behind the bell if an answer is wanted at once.
func (s *Swarm) ask(p *Peer, t *transfer, ring bool) []Offer {
	for _, other := range p.running {
		other.pulls++
	}
	asked := s.offer(t)
	if !ring || !p.bell.hung {
		return []Offer{asked}
	}
	p.bell.of = t
	ch := s.chunks[p.bell.num]
	first := asked
	first.Num, first.MD5, first.Length, first.Known, first.transfer = p.bell.num, ch.md5, ch.length, true, nil
	return []Offer{first, asked}
}
