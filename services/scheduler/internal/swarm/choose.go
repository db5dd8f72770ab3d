package swarm

import (
	"cmp"
	"net/netip"
	"time"
)

const (
	// The largest number of pieces that are looked at for one choice, of the rarest
	// and in all.
	rarestLooked = 32
	piecesLooked = 64
	// holdersLooked is how many holders of a piece are looked at.
	holdersLooked = 8
	// freshLooked is how many fresh pieces are looked at.
	freshLooked = 32
	// firstCopiesAll is how many first copies are on their way to few peers: each
	// may fetch its share of them at a time, at least one.
	firstCopiesAll = 4
	// firstCopiesAtOnce is how many transfers from CDN copies a task begins with.
	// Each that arrives allows one more: the fewer share the CDN's link, the
	// sooner the first peers have something to pass on.
	firstCopiesAtOnce = 3
	// few is how many pieces a peer sends or fetches at a time until it has sent or
	// fetched settledBytes.
	few          = 3
	settledBytes = 64 << 20
	// mostOverdue is how many overdue transfers a peer may have on top of its limit.
	mostOverdue = 2
	// helpAbove is how many pieces a peer must lack for the CDN to help it: the
	// last ones come from peers in a moment.
	helpAbove = 6
	// A peer with nothing running falls back to the CDN after fallbackFactor times
	// the usual time of a piece, within these bounds.
	fallbackFactor = 2
	fallbackMin    = 500 * time.Millisecond
	fallbackMax    = 3 * time.Second
)

// Work counts what choices looked at.
type Work struct {
	// Choices is the number of calls of Offer that had room for a piece.
	Choices int
	// Pieces and Holders are how many of each were looked at.
	Pieces, Holders int
	// Waiters is how many held pulls were looked at to find one to try.
	Waiters int
}

// Work returns what all choices so far looked at.
func (s *Swarm) Work() Work { return s.work }

// choice collects the offers of one answer to one peer.
type choice struct {
	s      *Swarm
	p      *Peer
	now    time.Time
	room   int
	offers []Offer
}

// Offer chooses what the peer fetches next, and takes the slots. It returns at
// most as many pieces as the peer has room for, none if it has to wait. It looks
// at a constant number of pieces, holders and sources: its time does not depend on
// the number of peers, and on that of pieces only by a bit for each.
func (s *Swarm) Offer(id string, now time.Time) []Offer {
	p := s.peers[id]
	switch {
	case p == nil || p.left:
		return nil
	case p.origin == migrant: // with all slots taken it may have to be asked again
		return s.offerMigrant(p, now)
	}
	c := choice{s: s, p: p, now: now, room: s.room(p)}
	if c.room <= 0 {
		return nil
	}
	s.work.Choices++
	cdnOnly := s.isCDNOnly(p, now)
	if !cdnOnly && s.helping && len(s.available.fresh) == 0 && p.fromCDN == 0 && s.lacking(p) > helpAbove {
		c.fromCDN(1)
	}
	if !cdnOnly && p.mayServe() { // a copy at a peer that serves nothing helps no other
		c.firstCopies()
	}
	found := !cdnOnly && c.fromPeers()
	if !cdnOnly && len(c.offers) == 0 {
		found = c.fromIdle() || found
	}
	switch {
	case cdnOnly, !p.mayServe() && !found, s.helping && s.lacking(p) > helpAbove:
		c.fromCDN(c.room)
	case p.active == 0 && !p.waitingSince.IsZero() && now.Sub(p.waitingSince) >= s.fallbackDelay():
		c.fromCDN(1)
	}
	p.triedAt = now
	switch {
	case len(c.offers) > 0:
		p.waitingSince = time.Time{}
	case p.waitingSince.IsZero():
		p.waitingSince = now
	}
	s.recount(p, now)
	return c.offers
}

// room returns how many more pieces the peer may fetch. It may be negative.
func (s *Swarm) room(p *Peer) int {
	if p.origin == migrant {
		return min(s.limits.Down, maxMigrantFetches) - len(p.running)
	}
	limit := s.slots(s.limits.Down, p.pieces)
	return min(limit-p.active, limit+mostOverdue-len(p.running))
}

// slots returns how many pieces a peer sends or fetches at a time, of at most
// limit, when it has sent or fetched a number of them. At first few transfers
// share its link, so that it has whole pieces soon. In a long download more of
// them do: while one is set up the others use the link.
func (s *Swarm) slots(limit, pieces int) int {
	if int64(pieces)*int64(s.facts.PieceSize) < settledBytes {
		return min(limit, few)
	}
	return limit
}

// fallbackDelay is how long a peer with nothing running waits for peers.
func (s *Swarm) fallbackDelay() time.Duration {
	usual := s.pieceTime
	if usual == 0 {
		for _, c := range s.copies {
			usual = max(usual, c.pieceTime)
		}
	}
	if usual == 0 {
		return fallbackMax
	}
	return min(max(fallbackFactor*time.Duration(usual), fallbackMin), fallbackMax)
}

// lacking returns how many pieces landed that a peer neither has nor is fetching.
func (s *Swarm) lacking(p *Peer) int {
	return s.landed - p.pieces - len(p.running)
}

// lacks reports whether a piece landed that the peer neither has nor is fetching.
func (c *choice) lacks(num int32) bool {
	return c.s.pieces[num].md5 != "" && !c.p.have.Test(uint(num)) && c.p.running[num] == nil
}

// take begins a transfer and offers it.
func (c *choice) take(t *transfer) {
	c.s.startTransfer(t, c.now)
	c.offers = append(c.offers, c.s.makeOffer(t))
	c.room--
}

// firstCopies gives the peer its share of the pieces that no peer has.
func (c *choice) firstCopies() {
	for c.room > 0 && c.s.mayTakeFirstCopy(c.p) {
		num := c.freshPiece()
		if num < 0 || !c.takeFromCDN(num) {
			return
		}
	}
}

// mayTakeFirstCopy reports whether a peer may fetch one more piece that no peer has.
func (s *Swarm) mayTakeFirstCopy(p *Peer) bool {
	active := s.peerList.active
	share := max(1, (firstCopiesAll+active-1)/max(1, active))
	return p.fromCDN < share && s.fromCDN < firstCopiesAtOnce+s.landedAtPeers
}

// freshPiece returns that of some fresh pieces which left the CDN least often, -1
// if the peer lacks none of them.
func (c *choice) freshPiece() int32 {
	list, first := c.s.available.fresh, 0
	if len(list) > freshLooked {
		first = c.s.random.IntN(len(list))
	}
	best, full := int32(-1), int32(-1)
	for i := range min(len(list), freshLooked) {
		num := list[(first+i)%len(list)]
		c.s.work.Pieces++
		if !c.lacks(num) {
			continue
		}
		from, free := c.s.bestCopy(c.p, num, c.now)
		switch {
		case from == nil:
		case free == 0:
			full = num
		case c.s.pieces[num].sent == 0:
			return num
		case best < 0 || c.s.pieces[num].sent < c.s.pieces[best].sent:
			best = num
		}
	}
	if best < 0 {
		return full // so that the demand is known
	}
	return best
}

// fromPeers gives the peer pieces that other peers serve, rare ones first. It
// reports whether it found any at a source that did not fail the peer of late,
// with a free slot or without.
func (c *choice) fromPeers() (found bool) {
	if c.room <= 0 {
		return false
	}
	for num := range c.candidates {
		if c.s.available.stage(num) != served || !c.lacks(num) {
			continue
		}
		from, usable := c.bestHolder(num)
		found = found || usable
		if from != nil {
			c.take(&transfer{num: num, to: c.p, from: from, length: c.s.pieces[num].length})
		}
		if c.room <= 0 {
			break
		}
	}
	return found
}

// candidates yields some of the rarest pieces, then random ones that the peer
// has not. It may yield a piece more than once.
func (c *choice) candidates(yield func(num int32) bool) {
	a := &c.s.available
	var rarest [rarestLooked]int32 // a copy: a transfer that begins changes the lists
	n := 0
	for copies := a.rarest(); copies <= mostCopies && n < rarestLooked; copies++ {
		list := a.served[copies]
		if len(list) == 0 {
			continue
		}
		first := c.s.random.IntN(len(list))
		for i := range min(len(list), rarestLooked-n) {
			rarest[n] = list[(first+i)%len(list)]
			n++
		}
	}
	for _, num := range rarest[:n] {
		c.s.work.Pieces++
		if !yield(num) {
			return
		}
	}
	c.random(piecesLooked-n, yield)
}

// random yields at most n pieces that the peer has not, from random places on.
func (c *choice) random(n int, yield func(num int32) bool) {
	const inRow = 4
	total := uint(len(c.s.pieces))
	if total == 0 {
		return
	}
	for n > 0 {
		num := uint(c.s.random.IntN(int(total)))
		for range inRow {
			n--
			next, found := c.p.nextMissing(num, total)
			if !found {
				return
			}
			c.s.work.Pieces++
			if !yield(int32(next)) {
				return
			}
			num = next + 1
		}
	}
}

// nextMissing returns the first piece at or after num that the peer does not have.
// After the last piece it continues at 0.
func (p *Peer) nextMissing(num, total uint) (uint, bool) {
	for range 2 {
		if num >= total {
			num = 0
		}
		if num >= p.have.Len() { // the set ends before the pieces do
			return num, true
		}
		if next, found := p.have.NextClear(num); found && next < total {
			return next, true
		}
		if p.have.Len() < total {
			return p.have.Len(), true
		}
		num = 0
	}
	return 0, false
}

// bestHolder returns the nearest of a few holders with a free slot, among
// equally near ones that with the fewest uploads, then the fastest. usable says
// that some of them did not fail the peer of late.
func (c *choice) bestHolder(num int32) (best *Peer, usable bool) {
	holders := c.s.pieces[num].holders
	if len(holders) == 0 {
		return nil, false
	}
	first := c.s.random.IntN(len(holders))
	for i := range min(len(holders), holdersLooked) {
		h := holders[(first+i)%len(holders)]
		c.s.work.Holders++
		if h == c.p || c.now.Before(c.p.avoids[h.ID]) {
			continue
		}
		usable = true
		if h.uploads >= c.s.uploadLimit(h) {
			continue
		}
		if best == nil || nearer(c.p, h, best) {
			best = h
		}
	}
	return best, usable
}

func nearer(p, a, b *Peer) bool {
	return cmp.Or(
		cmp.Compare(distance(p, a), distance(p, b)),
		cmp.Compare(a.uploads, b.uploads),
		cmp.Compare(a.sendTime, b.sendTime),
	) < 0
}

// distance is 0 on the same host, 1 in the same /24, 2 elsewhere.
func distance(a, b *Peer) int {
	switch {
	case a.IP == b.IP:
		return 0
	case a.network.IsValid() && a.network == b.network:
		return 1
	}
	return 2
}

// networkOf returns the /24 that an address is in, the zero Prefix for one that
// is not an IPv4 address.
func networkOf(ip string) netip.Prefix {
	addr, err := netip.ParseAddr(ip)
	if err != nil || !addr.Is4() {
		return netip.Prefix{}
	}
	return netip.PrefixFrom(addr, 24).Masked()
}

// fromCDN gives the peer up to n of the rarest of some pieces that it lacks from
// CDN copies.
func (c *choice) fromCDN(n int) {
	for range min(n, c.room) {
		best, full := int32(-1), int32(-1)
		c.random(rarestLooked, func(num int32) bool {
			if !c.lacks(num) {
				return true
			}
			from, free := c.s.bestCopy(c.p, num, c.now)
			switch {
			case from == nil:
			case free == 0:
				full = num
			case best < 0 || c.s.available.copies(num) < c.s.available.copies(best):
				best = num
			}
			return true
		})
		if best < 0 {
			best = full // so that the demand is known
		}
		if best < 0 || !c.takeFromCDN(best) {
			return
		}
	}
}

// takeFromCDN gives the peer a piece from the best CDN copy. It is false when
// that has no capacity left.
func (c *choice) takeFromCDN(num int32) bool {
	from, _ := c.s.bestCopy(c.p, num, c.now)
	if from == nil || !c.s.capacity.Take(from.Instance, c.now) {
		return false
	}
	c.take(&transfer{num: num, to: c.p, cdn: from, length: c.s.pieces[num].length})
	return true
}
