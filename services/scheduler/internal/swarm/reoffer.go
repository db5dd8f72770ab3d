package swarm

import (
	"cmp"
	"slices"
)

// Reoffer offers again what the peer was offered before, if that is all that it
// lacks: its report, or the offer, may have been lost. A client that has such a
// piece reports it at once. One that is still fetching it ignores the offer, and
// pulls the moment one of its transfers ends, which it could not while its pull
// is held.
// It takes O(k log k) for the k pieces that the peer is downloading, at most 6.
func (s *Swarm) Reoffer(id string) []Offer {
	p := s.peers[id]
	if p == nil || p.left || s.result == nil || p.pieces+len(p.running) < int(s.result.PieceCount) {
		return nil
	}
	var offers []Offer
	for _, t := range p.running {
		o := s.makeOffer(t)
		o.Repeated, o.transfer = true, nil
		offers = append(offers, o)
	}
	slices.SortFunc(offers, func(a, b Offer) int { return cmp.Compare(a.Num, b.Num) })
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
