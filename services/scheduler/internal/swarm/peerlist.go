package swarm

import "time"

// peerList lists the peers in an order in which a part of them can be visited at a
// time, and counts them. Adding, removing and recounting a peer takes constant time.
type peerList struct {
	list     []*Peer
	toReview int // the next peer to review
	toExpire int // the next peer that may have expired

	active     int // peers that are downloading, as of their last review
	waiting    int // those of them that were given nothing of late
	unfinished int // peers that have not left and miss pieces
}

// counted is what a peer counts as in peerList.
type counted struct {
	place                       int // in peerList.list
	active, waiting, unfinished bool
}

func (r *peerList) add(p *Peer) {
	p.counted.place = len(r.list)
	r.list = append(r.list, p)
}

// remove removes a peer that counts as nothing. The last one takes its place.
func (r *peerList) remove(p *Peer) {
	last := len(r.list) - 1
	moved := r.list[last]
	r.list[p.counted.place], r.list[last] = moved, nil
	moved.counted.place = p.counted.place
	r.list = r.list[:last]
}

// visit calls f for at most n peers from *next on, and moves *next behind them. f
// may remove the peer. It returns false when it has visited the last one: *next is 0
// then.
func (r *peerList) visit(next *int, n int, f func(*Peer)) (more bool) {
	for ; n > 0 && *next < len(r.list); n-- {
		p := r.list[*next]
		f(p)
		if *next < len(r.list) && r.list[*next] == p {
			*next++
		}
	}
	if *next >= len(r.list) {
		*next = 0
		return false
	}
	return true
}

// recount updates what a peer counts as.
func (s *Swarm) recount(p *Peer, now time.Time) {
	c, r := &p.counted, &s.peerList
	count(&c.unfinished, &r.unfinished, !p.left && !s.complete(p))
	count(&c.active, &r.active, c.unfinished && now.Sub(p.lastSeen) < activeFor)
	waits := !p.waitingSince.IsZero() && (p.waiter != nil || now.Sub(p.triedAt) < reviewEvery)
	count(&c.waiting, &r.waiting, c.active && waits)
}

// count counts a peer, or does not any more.
func count(counts *bool, total *int, should bool) {
	switch {
	case should && !*counts:
		*total++
	case !should && *counts:
		*total--
	}
	*counts = should
}

// recountAll updates which peers miss pieces. Those that miss none are not active.
func (s *Swarm) recountAll() {
	r := &s.peerList
	for _, p := range r.list {
		c := &p.counted
		count(&c.unfinished, &r.unfinished, !p.left && !s.complete(p))
		if !c.unfinished {
			count(&c.active, &r.active, false)
			count(&c.waiting, &r.waiting, false)
		}
	}
}
