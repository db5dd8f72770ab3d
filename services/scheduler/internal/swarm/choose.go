package swarm

import (
	"cmp"
	"hash/maphash"
	"net/netip"
	"slices"
	"time"
)

const (
	// parallelFetches is how many peers fetch one piece from a busy CDN at the same time
	// before the others wait for a copy of theirs: what is on its way to
	// several peers will be had from them in a moment. While the CDN has
	// bandwidth to spare nobody waits.
	parallelFetches = 3
	// recentTransfer is how long a transfer counts for that: one that takes longer is
	// slow, and nobody waits for it.
	recentTransfer = time.Second
	// minCDNTransfers is how many pieces each task may have under way from a CDN
	// instance, however busy that is.
	minCDNTransfers = 8
	// maxHoldersCompared bounds how many holders of a piece are looked at for one choice.
	maxHoldersCompared = 64
	// reofferAfter is how long a peer must have had a piece running before it may
	// be told again.
	reofferAfter = 2 * time.Second
)

// Offer chooses what the peer fetches next, at most as many pieces as it has
// slots free: those that it lacks, the rarest first, counting copies on their
// way; each from the best peer that has it, else from the best CDN copy. The slots are
// taken when it returns.
func (s *Swarm) Offer(id string, now time.Time) []Offer {
	p := s.peers[id]
	switch {
	case p == nil || p.left:
		return nil
	case p.migrant: // with all slots taken it may have to be asked again
		return s.offerMigrant(p, now)
	case len(p.running) >= s.limits.Down:
		return nil
	}
	var offers []Offer
	for _, num := range s.missingPieces(p) {
		t := s.chooseSource(p, num, now)
		if t == nil {
			continue
		}
		s.startTransfer(t, now)
		offers = append(offers, s.makeOffer(t))
		if len(p.running) >= s.limits.Down {
			break
		}
	}
	return offers
}

// Reoffer offers once more what the peer was told of long ago, when that is all
// that it lacks: its report, or the offer, may have been lost. A client that
// has the piece says so at once; one that is still fetching it ignores the
// offer and does not pull before the piece ends, so this must not happen while
// there may be something else for it.
func (s *Swarm) Reoffer(id string, now time.Time) []Offer {
	p := s.peers[id]
	if p == nil || s.result == nil || int(p.have.Count())+len(p.running) < int(s.result.PieceCount) {
		return nil
	}
	var offers []Offer
	for _, t := range p.running {
		if now.Sub(t.started) >= reofferAfter {
			offers = append(offers, s.makeOffer(t))
		}
	}
	return offers
}

func sourceID(t *transfer) string {
	if t.from != nil {
		return t.from.ID
	}
	return t.cdn.ID
}

func (s *Swarm) makeOffer(t *transfer) Offer {
	state := s.pieces[t.num]
	o := Offer{Num: t.num, MD5: state.md5, Length: state.length, transfer: t}
	if t.from != nil {
		o.SourceID, o.IP, o.Port, o.Path = t.from.ID, t.from.IP, t.from.Port, t.from.Path
		return o
	}
	o.SourceID, o.IP, o.Port, o.Path, o.FromCDN = t.cdn.ID, t.cdn.IP, t.cdn.Port, t.cdn.Path, true
	return o
}

// missingPieces are the pieces that p lacks and is not fetching, the rarest first.
// Among equally rare ones every peer has an order of its own, so that a crowd
// that starts together takes different pieces.
func (s *Swarm) missingPieces(p *Peer) []int32 {
	type want struct {
		num    int32
		copies int
		order  uint64
	}
	list := make([]want, 0, len(s.pieces))
	for i, state := range s.pieces {
		num := int32(i)
		if state.md5 == "" || p.have.Test(uint(i)) || p.running[num] != nil {
			continue
		}
		list = append(list, want{num, len(state.holders) + len(state.transfers), s.order(p.ID, num)})
	}
	slices.SortFunc(list, func(a, b want) int {
		return cmp.Or(cmp.Compare(a.copies, b.copies), cmp.Compare(a.order, b.order))
	})
	nums := make([]int32, len(list))
	for i, w := range list {
		nums[i] = w.num
	}
	return nums
}

func (s *Swarm) order(peerID string, num int32) uint64 {
	return maphash.Comparable(s.orderSeed, struct {
		id  string
		num int32
	}{peerID, num})
}

// chooseSource finds where p takes a piece from, nil when there is no place now.
func (s *Swarm) chooseSource(p *Peer, num int32, now time.Time) *transfer {
	state := s.pieces[num]
	if from := s.bestHolder(p, state, now); from != nil {
		return &transfer{num: num, to: p, from: from, length: state.length}
	}
	c := s.bestCopy(p, num, now)
	if c == nil || !s.budget.Take(c.Instance, int64(state.length), c.transfers < minCDNTransfers) {
		return nil
	}
	return &transfer{num: num, to: p, cdn: c, length: state.length}
}

// bestHolder is the nearest holder with a free slot; among equally near ones
// that with most slots free, then the fastest of late.
func (s *Swarm) bestHolder(p *Peer, state *pieceState, now time.Time) *Peer {
	if len(state.holders) == 0 || now.Before(p.cdnOnlyUntil) {
		return nil
	}
	var best *Peer
	first := int(s.order(p.ID, int32(len(state.holders))) % uint64(len(state.holders)))
	for i := range min(len(state.holders), maxHoldersCompared) {
		h := state.holders[(first+i)%len(state.holders)]
		if h == p || h.uploads >= s.limits.Up || !h.canServe(now) || now.Before(p.avoids[h.ID]) {
			continue
		}
		if best == nil || nearer(p, h, best) {
			best = h
		}
	}
	return best
}

func nearer(p, a, b *Peer) bool {
	return cmp.Or(
		cmp.Compare(distance(p, a), distance(p, b)),
		cmp.Compare(a.uploads, b.uploads),
		cmp.Compare(a.pieceTime, b.pieceTime),
	) < 0
}

// distance is 0 on the same host, 1 in the same /24, 2 elsewhere.
func distance(a, b *Peer) int {
	if a.IP == b.IP {
		return 0
	}
	x, err1 := netip.ParseAddr(a.IP)
	y, err2 := netip.ParseAddr(b.IP)
	if err1 == nil && err2 == nil && netip.PrefixFrom(x, 24).Masked() == netip.PrefixFrom(y, 24).Masked() {
		return 1
	}
	return 2
}
