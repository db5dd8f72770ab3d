package swarm

import (
	"container/list"
	"time"
)

const (
	// waitersLooked is how many held pulls are looked at to find one that a free
	// slot, or free capacity of the CDN, can serve.
	waitersLooked = 32
	// retryEvery is how often the pull of a migrant is tried again.
	retryEvery = 200 * time.Millisecond
	// sourcesInRow is how many sources Next matches in vain before it returns.
	sourcesInRow = 64
	// recheckEvery is how often a peer with nothing running is checked for its
	// fallback: the usual time of a piece, on which that depends, changes.
	recheckEvery = time.Second
)

// waiter is the held pull of a peer.
//
//	arrived --Next--> tried --Denied--> waiting --a change that may serve it--> woken
//	                   ^                                                          |
//	                   +---------------------------Next---------------------------+
//
//	any state --Release--> released
type waiter struct {
	peer  *Peer
	until time.Time
	state waiterState
	// source has a free slot and a piece that the peer misses. It is nil if the
	// waiter was woken for another reason.
	source *Peer
	// place is where it is in heldPulls.order, nil before it was denied. duePlace is
	// where it is in heldPulls.fallbackDue, nil while it is not there.
	place    *list.Element
	duePlace *list.Element
	retryAt  time.Time
	retry    int // in heldPulls.retries
}

type waiterState uint8

const (
	arrived waiterState = iota
	tried
	waiting
	woken
	released
)

func (w *waiter) time() time.Time { return w.retryAt }
func (w *waiter) index() *int     { return &w.retry }

// heldPulls indexes the pulls that are held by what may serve them, so that a change
// costs the same however many pulls are held. A free slot of a source, or free
// capacity of the CDN, is matched with a few pulls, those first that have not been
// looked at for longest. A pull that finds no match is tried again when it is due.
type heldPulls struct {
	// order are the pulls that were denied, the one looked at longest ago first.
	order *list.List
	// retries are the same pulls by when time may serve them.
	retries timeline[*waiter]
	// fallbackDue are those of peers that have waited long enough for the CDN, and that
	// wait for its capacity, the longest first.
	fallbackDue *list.List
	// woken and arrived are to be tried, woken ones first: they have waited.
	woken, arrived fifo[*waiter]
	// sources have got a free slot, or a piece that others miss.
	sources fifo[*Peer]
	// cdnFreed is set if CDN copies may serve pulls that they could not before.
	cdnFreed bool
}

// Hold has the peer's pull wait for an answer until a time at most. A pull of the
// peer that is held already is released.
// It takes O(log n) for n held pulls.
func (s *Swarm) Hold(id string, until time.Time) {
	p := s.peers[id]
	if p == nil {
		return
	}
	s.Release(id)
	p.waiter = &waiter{peer: p, until: until, retry: outside}
	s.held.arrived.push(p.waiter)
}

// Next returns the next peer whose held pull may have an answer, and false if there
// is none. The caller tries to answer it, and calls Denied or Release. The id is empty
// if Next has looked for such a pull for long: there may be one. It takes constant
// time, whatever the number of held pulls.
func (s *Swarm) Next(now time.Time) (id string, ok bool) {
	h := &s.held
	for sources := 0; ; {
		w, ok := h.woken.pop()
		if !ok {
			if source, found := h.sources.pop(); found {
				s.matchSource(source, now)
				if sources++; sources == sourcesInRow {
					return "", true
				}
				continue
			}
			if h.cdnFreed {
				h.cdnFreed = false
				s.matchCDN(now)
				continue
			}
			if w, ok = h.arrived.pop(); !ok {
				return "", false
			}
		}
		if w.state != released {
			w.state = tried
			return w.peer.ID, true
		}
	}
}

// Denied keeps the pull that Next returned.
// It takes O(log n) for n held pulls.
func (s *Swarm) Denied(id string, now time.Time) {
	p := s.peers[id]
	if p == nil || p.waiter == nil {
		return
	}
	w := p.waiter
	source := w.source
	w.state, w.source = waiting, nil
	if w.place == nil {
		w.place = s.held.order.PushBack(w)
	}
	if source != nil && !s.wants(p, source, now) { // else the same pull would be woken again
		s.slotFreed(source)
	}
	s.scheduleRetry(w, now)
}

// Release ends a held pull: it is answered, or its caller has gone.
// It takes O(log n) for n held pulls.
func (s *Swarm) Release(id string) {
	p := s.peers[id]
	if p == nil || p.waiter == nil {
		return
	}
	w := p.waiter
	p.waiter, w.state = nil, released
	if w.place != nil {
		s.held.order.Remove(w.place)
	}
	if w.duePlace != nil {
		s.held.fallbackDue.Remove(w.duePlace)
	}
	if w.retry != outside {
		s.held.retries.remove(w)
	}
	if w.source != nil { // which may have a slot left for another
		s.slotFreed(w.source)
	}
}

// WakeAll has all held pulls tried again.
// It takes O(n) for n held pulls.
func (s *Swarm) WakeAll() {
	for e := s.held.order.Front(); e != nil; e = e.Next() {
		s.wake(e.Value.(*waiter).peer) //nolint:errcheck // nothing else is in the list
	}
}

// CapacityFreed has some held pulls tried again that a CDN copy may serve.
// It takes constant time.
func (s *Swarm) CapacityFreed() { s.held.cdnFreed = true }

// wake has the peer's held pull tried again.
func (s *Swarm) wake(p *Peer) {
	if w := p.waiter; w != nil && w.state == waiting {
		w.state = woken
		s.held.woken.push(w)
	}
}

// slotFreed has held pulls tried that a source can serve, if it has a free slot.
func (s *Swarm) slotFreed(source *Peer) {
	s.updateIdle(source)
	if source.idlePlace != outside && !source.slotIsNews && s.held.order.Len() > 0 {
		source.slotIsNews = true
		s.held.sources.push(source)
	}
}

// changeCopies adds to the holders and to the transfers of a piece.
func (s *Swarm) changeCopies(num, holders, transfers int32) {
	s.available.change(num, holders, transfers)
	if s.available.stage(num) == fresh {
		s.CapacityFreed()
	}
}

// nextWaiting returns the pull that was looked at longest ago, and puts it at the
// end. It is nil if that is not waiting.
func (h *heldPulls) nextWaiting() *waiter {
	front := h.order.Front()
	h.order.MoveToBack(front)
	if w := front.Value.(*waiter); w.state == waiting { //nolint:errcheck // nothing else is in the list
		return w
	}
	return nil
}

// matchSource wakes as many pulls as a source has free slots, of those that it can
// serve.
func (s *Swarm) matchSource(source *Peer, now time.Time) {
	source.slotIsNews = false
	if !s.hasFreeSlot(source) {
		return
	}
	free := s.uploadLimit(source) - source.uploads
	for range min(waitersLooked, s.held.order.Len()) {
		s.work.Waiters++
		w := s.held.nextWaiting()
		if w == nil || !s.wants(w.peer, source, now) {
			continue
		}
		w.source = source
		s.wake(w.peer)
		if free--; free == 0 {
			return
		}
	}
}

// matchCDN wakes as many pulls as CDN copies have capacity for, of those that they
// may serve. It wakes at least one: if that is refused, the demand is recorded.
func (s *Swarm) matchCDN(now time.Time) {
	free := max(1, s.freeCapacity(now))
	delay := s.fallbackDelay()
	for range min(waitersLooked, s.held.fallbackDue.Len()) {
		w := s.held.fallbackDue.Front().Value.(*waiter) //nolint:errcheck // nothing else is in the list
		s.held.leaveDue(w)
		if w.state != waiting {
			continue // Denied puts it back
		}
		if !s.mayUseCDN(w.peer, delay, now) {
			s.scheduleRetry(w, now)
			continue
		}
		s.wake(w.peer)
		if free--; free == 0 {
			return
		}
	}
	for range min(waitersLooked, s.held.order.Len()) {
		s.work.Waiters++
		w := s.held.nextWaiting()
		if w == nil || !s.mayUseCDN(w.peer, delay, now) {
			continue
		}
		s.wake(w.peer)
		if free--; free == 0 {
			return
		}
	}
}

// freeCapacity returns how many transfers CDN copies would grant.
func (s *Swarm) freeCapacity(now time.Time) int {
	free := 0
	for _, c := range s.copies {
		free += s.capacity.Free(c.Instance, now)
	}
	return free
}

// mayUseCDN reports whether Offer would look for a piece for the peer at the CDN
// copies, where a peer with nothing running waits for other peers for a delay.
func (s *Swarm) mayUseCDN(p *Peer, delay time.Duration, now time.Time) bool {
	switch {
	case p.left, s.room(p) <= 0, s.lacking(p) <= 0, !s.hasCopyFor(p, now):
		return false
	case p.origin == migrant, !p.mayServe(), now.Before(p.cdnOnlyUntil):
		return true
	case s.helping && s.lacking(p) > helpAbove:
		return true
	case len(s.available.fresh) > 0 && s.mayTakeFirstCopy(p):
		return true
	}
	return p.active == 0 && !p.waitingSince.IsZero() && now.Sub(p.waitingSince) >= delay
}

// hasCopyFor reports whether there is a CDN copy that did not fail the peer of late.
func (s *Swarm) hasCopyFor(p *Peer, now time.Time) bool {
	for _, c := range s.copies {
		if !now.Before(p.copyFailures[c.Instance].pausedUntil) {
			return true
		}
	}
	return false
}
