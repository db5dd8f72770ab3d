package swarm

import "time"

// leaveDue removes a pull from those that wait for the CDN's capacity.
func (h *heldPulls) leaveDue(w *waiter) {
	if w.duePlace != nil {
		h.fallbackDue.Remove(w.duePlace)
		w.duePlace = nil
	}
}

// scheduleRetry sets when time alone may serve a pull: when its peer may fetch from
// the CDN as it has waited, or from sources that it was kept away from, but at the
// latest when the pull is due. A peer that has waited long enough is queued for the
// CDN's capacity instead.
func (s *Swarm) scheduleRetry(w *waiter, now time.Time) {
	p := w.peer
	w.retryAt = w.until
	earlier := func(at time.Time) {
		if at.After(now) && at.Before(w.retryAt) {
			w.retryAt = at
		}
	}
	earlier(p.cdnOnlyUntil)
	for _, failures := range p.copyFailures {
		earlier(failures.pausedUntil)
	}
	if p.origin == migrant {
		earlier(now.Add(retryEvery))
	}
	s.held.leaveDue(w)
	if p.active == 0 && !p.waitingSince.IsZero() {
		if due := p.waitingSince.Add(s.fallbackDelay()); due.After(now) {
			earlier(due)
			earlier(now.Add(recheckEvery))
		} else {
			w.duePlace = s.held.fallbackDue.PushBack(w)
		}
	}
	if w.retry == outside {
		s.held.retries.add(w)
	} else {
		s.held.retries.fix(w)
	}
}

// wakeDue looks at no more than limit pulls that are due, and returns at how many. It
// wakes those that time has made possible to serve. CDN copies are looked at for some
// pulls besides.
func (s *Swarm) wakeDue(now time.Time, limit int) (n int) {
	if s.held.order.Len() == 0 {
		return 0
	}
	for ; n < limit && s.held.retries.len() > 0 && !now.Before(s.held.retries.first().retryAt); n++ {
		w := s.held.retries.first()
		if !now.Before(w.until) || w.peer.origin == migrant || w.peer.pauseEnded(now) {
			s.held.retries.remove(w)
			s.wake(w.peer)
			continue
		}
		s.scheduleRetry(w, now)
	}
	s.CapacityFreed()
	return n
}

// pauseEnded reports whether a time for which the peer was kept away from sources
// has ended since pieces were last looked for on its behalf.
func (p *Peer) pauseEnded(now time.Time) bool {
	ended := func(at time.Time) bool { return at.After(p.triedAt) && !at.After(now) }
	if ended(p.cdnOnlyUntil) {
		return true
	}
	for _, failures := range p.copyFailures {
		if ended(failures.pausedUntil) {
			return true
		}
	}
	return false
}
