package swarm

import "time"

const (
	// reviewEvery is how often all peers are looked at: for what they avoid, for
	// pieces that count as written, and to count those that are active.
	reviewEvery = time.Second
	// activeFor is how long after its last call a peer counts as active. A client
	// with a pull that is held, or with small pieces, calls more often.
	activeFor = 15 * time.Second
	// helpAfter is how long the CDN has to be worth its help before it helps.
	helpAfter = 2 * time.Second
)

// Tick makes due what is due: transfers become overdue or end, received pieces
// count as written, and sources come back.
func (s *Swarm) Tick(now time.Time) {
	for len(s.deadlines) > 0 && now.After(s.deadlines[0].due) {
		s.expire(s.deadlines[0], now)
	}
	s.resume(now)
	if now.Sub(s.reviewed) >= reviewEvery {
		s.reviewed = now
		s.review(now)
	}
	if !s.cdnIsWorthHelp(now) {
		s.worthSince = time.Time{}
	} else if s.worthSince.IsZero() {
		s.worthSince = now
	}
	s.helping = !s.worthSince.IsZero() && now.Sub(s.worthSince) >= helpAfter
}

func (s *Swarm) review(now time.Time) {
	s.active, s.waiting = 0, 0
	for _, p := range s.peers {
		for num, w := range p.writing {
			if now.Sub(w.since) >= writeGrace {
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
		if !s.isActive(p, now) {
			continue
		}
		s.active++
		if !p.waitingSince.IsZero() && now.Sub(p.triedAt) < reviewEvery {
			s.waiting++
		}
	}
}

// isActive tells whether a peer is downloading.
func (s *Swarm) isActive(p *Peer, now time.Time) bool {
	return !p.left && now.Sub(p.lastSeen) < activeFor && !s.complete(p)
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
	return rate >= 0.05*peers && 10*s.waiting > s.active
}

// Busy tells whether anything is under way that time alone can change.
func (s *Swarm) Busy() bool { return len(s.deadlines)+s.writing+len(s.suspended) > 0 }

// Close gives back the CDN capacity that the swarm has taken.
func (s *Swarm) Close() {
	for _, p := range s.peers {
		s.endDownloads(p)
	}
	s.capacity.Close()
}
