package swarm

import "time"

const (
	// reviewEvery is how often all peers are looked at: for what they avoid, and to
	// count those that are active.
	reviewEvery = time.Second
	// reviewChunk is how many peers one Tick looks at, and how much of what is due it
	// handles.
	reviewChunk = 1024
	// activeFor is how long after its last call a peer counts as active. A client
	// with a pull that is held, or with small pieces, calls more often.
	activeFor = 15 * time.Second
	// pullGrace is how long after its last call a peer without a transfer may still be
	// about to pull: it waits for at most 1.6 s after a pull that was held for 3 s.
	pullGrace = 6 * time.Second
	// resultGrace is how long after its last call a peer that has all pieces may still
	// be about to ask for the result. It asks at once when it has written the last one.
	resultGrace = 2 * time.Second
	// helpAfter is how long the CDN has to be worth its help before it helps.
	helpAfter = 2 * time.Second
)

// Tick makes due what is due: transfers become overdue or end, received pieces
// count as written, sources come back, and held pulls are looked at again. It
// returns true if more is due than one call handles.
// It takes O(reviewChunk · log n) for n transfers or held pulls, whatever the number of
// peers.
func (s *Swarm) Tick(now time.Time) (more bool) {
	n := 0
	for ; n < reviewChunk && s.deadlines.len() > 0 && now.After(s.deadlines.first().due); n++ {
		s.expire(s.deadlines.first(), now)
	}
	for ; n < reviewChunk && s.suspended.len() > 0 && !now.Before(s.suspended.first().suspendedUntil); n++ {
		s.endSuspension(s.suspended.first())
	}
	n += s.endGraces(now, reviewChunk-n)
	s.review(now)
	if !s.cdnIsWorthHelp(now) {
		s.worthSince = time.Time{}
	} else if s.worthSince.IsZero() {
		s.worthSince = now
	}
	s.helping = !s.worthSince.IsZero() && now.Sub(s.worthSince) >= helpAfter
	n += s.wakeDue(now, reviewChunk-n)
	return n == reviewChunk
}

// review looks at the next peers, and begins with the first one again every
// reviewEvery.
func (s *Swarm) review(now time.Time) {
	if s.peerList.toReview == 0 {
		if now.Sub(s.reviewed) < reviewEvery {
			return
		}
		s.reviewed = now
	}
	s.peerList.visit(&s.peerList.toReview, reviewChunk, func(p *Peer) {
		for id, until := range p.avoids {
			if !now.Before(until) {
				drop(&p.avoids, id)
				s.wake(p)
			}
		}
		for instance, failures := range p.copyFailures {
			if now.Sub(failures.pausedUntil) > avoidFor {
				drop(&p.copyFailures, instance)
			}
		}
		s.recount(p, now)
	})
}

// cdnIsWorthHelp tells whether the CDN copies would add a notable share to what
// peers send each other: a third of it while a piece takes much longer from a
// peer, or a twentieth while peers wait.
func (s *Swarm) cdnIsWorthHelp(now time.Time) bool {
	var rate float64
	var pieceTime smoothed
	for _, c := range s.copies {
		rate += c.rate
		pieceTime = max(pieceTime, c.pieceTime)
	}
	peers := s.exchanged.perSecond(now)
	switch {
	case rate == 0:
		return false
	case rate >= 0.3*peers && (s.pieceTime == 0 || s.pieceTime > 3*pieceTime/2):
		return true
	}
	return rate >= 0.05*peers && 10*s.peerList.waiting > s.peerList.active
}

// Busy tells whether anything is under way that time alone can change.
// It takes constant time.
func (s *Swarm) Busy() bool { return s.deadlines.len()+s.writing+s.suspended.len() > 0 }

// Close gives back the CDN capacity that the swarm has taken.
// It takes O(peers + transfers).
func (s *Swarm) Close() {
	for _, p := range s.peers {
		s.endDownloads(p)
	}
	s.capacity.Close()
}

// grace is a piece that a peer began to write at a time.
type grace struct {
	peer  *Peer
	num   int32
	since time.Time
}

// graces holds the pieces that peers are writing, and some that they have written,
// in the order in which they began.
type graces struct{ queue []grace }

// graceSlack is how many pieces that are written may be in graces, besides as many
// as are being written.
const graceSlack = 256

// add appends a piece, and drops the written ones when they are most: on average
// in constant time.
func (g *graces) add(added grace, writing int) {
	if len(g.queue) > 2*writing+graceSlack {
		kept := g.queue[:0]
		for _, e := range g.queue {
			if e.isWriting() {
				kept = append(kept, e)
			}
		}
		clear(g.queue[len(kept):])
		g.queue = kept
	}
	g.queue = append(g.queue, added)
}

func (g grace) isWriting() bool {
	w, writing := g.peer.writing[g.num]
	return writing && w.since.Equal(g.since)
}

// endGraces makes at most limit pieces served that a peer began to write writeGrace
// ago, and returns how many it looked at.
func (s *Swarm) endGraces(now time.Time, limit int) (n int) {
	q := &s.graces.queue
	for ; n < min(limit, len(*q)) && now.Sub((*q)[n].since) >= writeGrace; n++ {
		if g := (*q)[n]; g.isWriting() {
			s.changes.addPeerPiece(g.peer.ID, g.num)
			s.serve(g.peer, g.num)
		}
		(*q)[n] = grace{}
	}
	*q = (*q)[n:]
	return n
}
