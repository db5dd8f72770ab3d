package swarm

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// transfer is one piece on its way to one peer. It takes a slot at its receiver
// and one at its source.
//
//	active --it takes much longer than usual--> overdue --the client gives up--> ended
//	   |                                            |
//	   +-- success, failure, restart, undelivered --+---------------------------> ended
//
// An overdue transfer has given its source the slot back and is no copy to
// come. The receiver has room for another piece instead, up to mostOverdue. The
// piece is not offered to it again before the client gives up by itself, because
// until then it ignores the offer.
type transfer struct {
	num     int32
	to      *Peer
	from    *Peer    // nil when a CDN copy sends it
	cdn     *cdnCopy // that copy
	length  int32
	started time.Time
	state   transferState
	counts  bool      // as a copy to come
	blamed  bool      // on its source, when it became overdue
	due     time.Time // when it becomes overdue, or ends
	place   int       // in Swarm.deadlines

	parallel        int  // transfers of the task from the same copy when it began
	pullsSinceAsked int  // of a migrant since it was asked of the piece
	confirmed       bool // a migrant was found to be downloading it
}

func (t *transfer) time() time.Time { return t.due }
func (t *transfer) index() *int     { return &t.place }

type transferState uint8

const (
	active transferState = iota
	overdue
	ended
)

const (
	// A client gives a piece up after clientBase and what it takes at clientRate
	// bytes a second. clientSlack is for its report.
	clientBase  = 10 * time.Second
	clientRate  = 64 << 10
	clientSlack = time.Second
	// A transfer is overdue after overdueFactor times the usual time of a piece,
	// but not before overdueMin. While no usual time is known the bound is
	// overdueUnknown plus what the piece takes at overdueRate bytes a second.
	overdueFactor  = 5
	overdueMin     = 3 * time.Second
	overdueUnknown = 10 * time.Second
	overdueRate    = 512 << 10
	// slowReceiver bounds how many times the usual time a slow receiver is granted.
	slowReceiver = 4
	// A piece that is reported sooner was at the peer already.
	plausibleMin  = time.Millisecond
	plausibleRate = 1250 << 20 // bytes a second
)

// clientTimeout returns how long a client tries to fetch a piece.
func clientTimeout(length int32) time.Duration {
	return clientBase + time.Duration(length)*time.Second/clientRate + clientSlack
}

// patience returns how long a transfer may take before it is overdue.
func (s *Swarm) patience(t *transfer) time.Duration {
	usual := s.pieceTime
	if t.cdn != nil {
		usual = t.cdn.pieceTime
	}
	if usual == 0 {
		usual = t.to.fetchTime
	} else { // a receiver that is slow by itself, or says so
		usual = max(usual, min(t.to.fetchTime, slowReceiver*usual))
	}
	if usual == 0 {
		return overdueUnknown + time.Duration(t.length)*time.Second/overdueRate
	}
	return min(max(overdueMin, overdueFactor*time.Duration(usual)), clientTimeout(t.length))
}

// startTransfer takes both slots. The capacity of a CDN copy is taken already.
func (s *Swarm) startTransfer(t *transfer, now time.Time) {
	s.offered = true
	if t.to.origin == newcomer {
		t.to.origin = resident
		s.changes.addPeer(t.to.ID)
	}
	put(&t.to.running, t.num, t)
	t.to.active++
	if t.to.lastFailure.num == t.num {
		t.to.lastFailure = failureReport{}
	}
	if t.from != nil {
		put(&t.from.sending, t, struct{}{})
		t.from.uploads++
		s.updateIdle(t.from)
	} else {
		t.cdn.sending[t] = struct{}{}
		t.cdn.running++
		t.to.fromCDN++
		s.fromCDN++
		t.parallel = t.cdn.running
		s.pieces[t.num].sent++
	}
	if t.counts = t.to.mayServe(); t.counts {
		s.changeCopies(t.num, 0, 1)
	}
	t.started, t.due = now, now.Add(s.patience(t))
	s.deadlines.add(t)
}

// endTransfer frees the slots that the transfer still has.
func (s *Swarm) endTransfer(t *transfer) {
	s.releaseSource(t)
	t.state = ended
	s.deadlines.remove(t)
	drop(&t.to.running, t.num)
	if t.from != nil {
		drop(&t.from.sending, t)
	} else {
		delete(t.cdn.sending, t)
	}
	s.wake(t.to)
}

// releaseSource frees the source's slot, and the receiver's room for another
// piece, if the transfer still has them.
func (s *Swarm) releaseSource(t *transfer) {
	if t.state != active {
		return
	}
	t.to.active--
	if t.from != nil {
		t.from.uploads--
		s.slotFreed(t.from)
	} else {
		t.cdn.running--
		t.to.fromCDN--
		s.fromCDN--
		s.capacity.Release(t.cdn.Instance)
		s.CapacityFreed()
	}
	if t.counts {
		t.counts = false
		s.changeCopies(t.num, 0, -1)
	}
	s.wake(t.to)
}

// expire makes an active transfer overdue and ends an overdue one.
func (s *Swarm) expire(t *transfer, now time.Time) {
	if t.state == overdue {
		s.endTransfer(t)
		return
	}
	s.releaseSource(t)
	t.state = overdue
	t.due = t.started.Add(clientTimeout(t.length))
	s.deadlines.fix(t)
	othersArrived := t.to.lastSuccess.After(t.started)
	switch {
	case t.cdn != nil && othersArrived:
		t.to.recordCopyFailure(t.cdn, now)
	case t.cdn != nil:
	case othersArrived:
		t.blamed = true
		s.recordPeerFailure(t.to, t.from, now)
	default: // the receiver may be the slow side
		put(&t.to.avoids, t.from.ID, now.Add(avoidFor))
	}
}

// completeTransfer ends a transfer that brought its piece, and learns from it
// how long a piece takes.
func (s *Swarm) completeTransfer(t *transfer, now time.Time) {
	parallel := t.parallel
	if t.cdn != nil {
		parallel += t.cdn.running
		s.landedAtPeers++
		drop(&t.to.copyFailures, t.cdn.Instance)
	}
	timely := t.state == active
	// A receiver that got other pieces meanwhile is not the slow side.
	receiverIsSlow := !timely && !t.to.lastSuccess.After(t.started)
	s.endTransfer(t)
	t.to.lastSuccess = now
	// A migrant may have had the piece, unless it was found to be downloading it.
	isNews := t.to.origin != migrant || t.confirmed
	if isNews && timely && t.from != nil {
		t.to.fetchFailures = 0
		s.proven(t.from)
	}
	if took := now.Sub(t.started); isNews && took >= plausibleMin+time.Duration(t.length)*time.Second/plausibleRate {
		s.measure(t, took, float64(parallel)/2, timely, receiverIsSlow, now)
	}
}

// measure records how long a piece took, while a mean number of transfers came
// from its CDN copy.
func (s *Swarm) measure(t *transfer, took time.Duration, parallel float64, timely, receiverIsSlow bool, now time.Time) {
	if timely || receiverIsSlow {
		t.to.fetchTime.add(took)
	}
	switch {
	case t.cdn != nil:
		t.cdn.pieceTime.add(took)
		t.cdn.observe(parallel * float64(t.length) / took.Seconds())
	case timely:
		t.from.sendTime.add(took)
		s.pieceTime.add(took)
		s.exchanged.add(t.length, now)
	}
}

// endDownloads ends what a peer is fetching.
func (s *Swarm) endDownloads(p *Peer) {
	for _, t := range p.inOrder() {
		s.endTransfer(t)
	}
}

// inOrder returns what a peer is fetching by piece number: the order of a map would
// make two runs of the simulator differ.
func (p *Peer) inOrder() []*transfer {
	list := make([]*transfer, 0, len(p.running))
	for _, t := range p.running {
		list = append(list, t)
	}
	slices.SortFunc(list, func(a, b *transfer) int { return cmp.Compare(a.num, b.num) })
	return list
}

// endUploads ends what others are fetching from a source, in the order in which it
// began.
func (s *Swarm) endUploads(sending map[*transfer]struct{}) {
	list := slices.Collect(maps.Keys(sending))
	slices.SortFunc(list, func(a, b *transfer) int {
		return cmp.Or(a.started.Compare(b.started), cmp.Compare(a.to.ID, b.to.ID), cmp.Compare(a.num, b.num))
	})
	for _, t := range list {
		s.endTransfer(t)
	}
}

// Undelivered takes back offers that never reached the peer.
// It takes O(log n) for each offer and n transfers.
func (s *Swarm) Undelivered(id string, offers []Offer) {
	p := s.peers[id]
	if p == nil {
		return
	}
	for _, o := range offers {
		// The piece may have been offered again meanwhile.
		if t := p.running[o.Num]; t != nil && t == o.transfer {
			s.endTransfer(t)
		}
	}
}
