package swarm

import (
	"math/bits"
	"time"
)

const (
	// idleLooked is how many idle sources are looked at for one choice.
	idleLooked = 16
	// usefulLooked is how many pieces of a source are looked at for one choice.
	usefulLooked = 32
)

// hasFreeSlot reports whether a peer serves pieces and may send one more.
func (s *Swarm) hasFreeSlot(p *Peer) bool {
	return p.listed > 0 && p.uploads < s.uploadLimit(p)
}

// updateIdle adds a source to the idle ones if it has a free slot, and removes it
// if it has none. The last one takes its place.
func (s *Swarm) updateIdle(p *Peer) {
	free := s.hasFreeSlot(p)
	switch {
	case free && p.idlePlace == outside:
		p.idlePlace = len(s.idle)
		s.idle = append(s.idle, p)
	case !free && p.idlePlace != outside:
		last := len(s.idle) - 1
		moved := s.idle[last]
		s.idle[p.idlePlace], s.idle[last] = moved, nil
		moved.idlePlace = p.idlePlace
		s.idle = s.idle[:last]
		p.idlePlace = outside
	}
}

// fromIdle gives the peer a piece of a source that has a free slot: of the one that
// its pull was woken for, else of one of some. While nearly all sources are busy,
// the holders that fromPeers looks at are unlikely to include those that are not.
func (c *choice) fromIdle() (found bool) {
	if c.room <= 0 {
		return false
	}
	if w := c.p.waiter; w != nil && w.source != nil && w.source.idlePlace != outside && c.fromSource(w.source) {
		return true
	}
	n := len(c.s.idle)
	if n == 0 {
		return false
	}
	first := c.s.random.IntN(n)
	for i := range min(n, idleLooked) {
		if c.fromSource(c.s.idle[(first+i)%n]) { // then the list has changed
			return true
		}
	}
	return false
}

// fromSource gives the peer the rarest of some pieces that a source with a free slot
// serves and the peer misses. It reports whether there is one.
func (c *choice) fromSource(source *Peer) (found bool) {
	c.s.work.Holders++
	if source == c.p || c.now.Before(c.p.avoids[source.ID]) {
		return false
	}
	best, looked := int32(-1), 0
	first := c.s.random.IntN(len(source.serves.Words()))
	c.p.useful(source, first, func(num int32) bool {
		looked++
		if c.s.available.stage(num) == served && (best < 0 || c.s.available.copies(num) < c.s.available.copies(best)) {
			best = num
		}
		return looked < usefulLooked
	})
	c.s.work.Pieces += looked
	if best < 0 {
		return false
	}
	c.take(&transfer{num: best, to: c.p, from: source, length: c.s.pieces[best].length})
	return true
}

// useful yields the pieces that a source serves and p neither has nor is fetching,
// from a word of the source's bit set on.
func (p *Peer) useful(source *Peer, first int, yield func(num int32) bool) {
	serves, have := source.serves.Words(), p.have.Words()
	for i := range serves {
		at := (first + i) % len(serves)
		word := serves[at]
		if at < len(have) {
			word &^= have[at]
		}
		for ; word != 0; word &= word - 1 {
			num := int32(at*wordBits + bits.TrailingZeros64(word))
			if p.running[num] == nil && !yield(num) {
				return
			}
		}
	}
}

// wants reports whether a peer may fetch a piece that a source serves, and has room
// for it. A migrant is offered what it may have already, and is tried again soon in
// any case, so no slot is kept for it.
func (s *Swarm) wants(p, source *Peer, now time.Time) bool {
	switch {
	case p == source, p.left, p.origin == migrant, s.room(p) <= 0, s.isCDNOnly(p, now), now.Before(p.avoids[source.ID]):
		return false
	}
	found := false
	p.useful(source, 0, func(num int32) bool {
		found = s.available.stage(num) == served
		return !found
	})
	return found
}

// isCDNOnly reports whether a peer takes nothing from other peers now.
func (s *Swarm) isCDNOnly(p *Peer, now time.Time) bool {
	return now.Before(p.cdnOnlyUntil) && len(s.copies) > 0
}
