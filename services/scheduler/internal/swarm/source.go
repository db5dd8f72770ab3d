package swarm

import "time"

// sourceState says what is known of a peer as a source of pieces.
//
//	unproven --an upload succeeds--> proven --failures in a row--> suspended
//	   |  ^                                                           |  ^
//	   |  +------------------- some time passes ----------------------+  |
//	   +--------------- fewer failures or overdue transfers -------------+
//
// An unproven source sends one piece at a time, and one more for each that it
// has sent, up to the limit. While few peers have anything, one upload at a time
// also makes the next source soonest. A suspended source is in no list of holders,
// so pieces that only it has are fresh again.
type sourceState uint8

const (
	unproven sourceState = iota
	proven
	suspended
)

const (
	// Failures in a row that suspend an unproven and a proven source.
	unprovenFailures = 2
	provenFailures   = 5
	// A source is suspended for suspendMin, doubled each time no upload
	// succeeded in between, up to suspendMax.
	suspendMin = 10 * time.Second
	suspendMax = 5 * time.Minute
	// avoidFor is how long a peer takes nothing from one that failed it.
	avoidFor = 30 * time.Second
	// A peer takes nothing from peers for cdnOnlyFor after cdnOnlyFailures
	// failures in a row.
	cdnOnlyFailures = 5
	cdnOnlyFor      = 10 * time.Second
)

// mayServe tells whether others may take pieces from the peer.
func (p *Peer) mayServe() bool { return !p.left && p.Port > 0 && p.source != suspended }

// uploadLimit returns how many pieces a source sends at a time.
func (s *Swarm) uploadLimit(source *Peer) int {
	return min(1+source.sent, s.slots(s.limits.Up, source.sent))
}

// proven records that a source sent a piece.
func (s *Swarm) proven(source *Peer) {
	source.uploadFailures, source.suspensions = 0, 0
	source.sent++
	wasSuspended := source.source == suspended
	source.source = proven
	if wasSuspended {
		s.listAll(source)
		s.suspended.remove(source)
	}
	s.slotFreed(source) // it may send one more at a time
}

// recordPeerFailure keeps p away from a source that did not send it a piece,
// suspends a source that fails repeatedly, and keeps p away from all peers if
// its transfers from them fail repeatedly.
func (s *Swarm) recordPeerFailure(p, source *Peer, now time.Time) {
	avoided := now.Before(p.avoids[source.ID])
	put(&p.avoids, source.ID, now.Add(avoidFor))
	if p.fetchFailures++; p.fetchFailures >= cdnOnlyFailures {
		p.fetchFailures = 0
		p.cdnOnlyUntil = now.Add(cdnOnlyFor)
	}
	if avoided {
		return // several transfers to one peer that fail together are one failure
	}
	limit := provenFailures
	if source.source == unproven {
		limit = unprovenFailures
	}
	if source.uploadFailures++; source.uploadFailures >= limit && source.source != suspended {
		s.suspend(source, now)
	}
}

func (s *Swarm) suspend(source *Peer, now time.Time) {
	s.unlistAll(source)
	source.source, source.uploadFailures, source.sent = suspended, 0, 0
	source.suspendedUntil = now.Add(min(suspendMin<<min(source.suspensions, 10), suspendMax))
	source.suspensions++
	s.suspended.add(source)
}

// endSuspension makes a suspended source unproven.
func (s *Swarm) endSuspension(p *Peer) {
	p.source = unproven
	s.suspended.remove(p)
	s.listAll(p)
}

// time and index make suspended peers the items of a timeline.
func (p *Peer) time() time.Time { return p.suspendedUntil }
func (p *Peer) index() *int     { return &p.suspendedPlace }

// serve records that others may take a piece from a peer.
func (s *Swarm) serve(p *Peer, num int32) {
	s.endWriting(p, num)
	p.serves.Set(uint(num))
	s.pieceAt(num)
	s.list(p, num)
}

// withdraw records that others may no longer take a piece from a peer.
func (s *Swarm) withdraw(p *Peer, num int32) {
	if _, writing := p.writing[num]; !writing && !p.serves.Test(uint(num)) {
		return
	}
	s.changes.addPeerPiece(p.ID, num)
	s.endWriting(p, num)
	if p.serves.Test(uint(num)) {
		s.unlist(p, num)
		p.serves.Clear(uint(num))
	}
}

// withdrawAll withdraws all that a peer serves or is about to serve.
func (s *Swarm) withdrawAll(p *Peer) {
	for num := range p.serves.EachSet() {
		s.withdraw(p, int32(num))
	}
	for num := range p.writing {
		s.withdraw(p, num)
	}
}

// unlisted is the place of a piece in no list of holders.
const unlisted = -1

// list adds a peer to the holders of a piece that it serves.
func (s *Swarm) list(p *Peer, num int32) {
	for int(num) >= len(p.places) {
		p.places = append(p.places, unlisted)
	}
	if p.places[num] != unlisted || !p.mayServe() {
		return
	}
	state := s.pieces[num]
	p.places[num] = int32(len(state.holders))
	p.listed++
	state.holders = append(state.holders, p)
	s.changeCopies(num, 1, 0)
	s.slotFreed(p) // for those that miss the piece
}

// unlist removes a peer from the holders of a piece. The last holder takes its place.
func (s *Swarm) unlist(p *Peer, num int32) {
	if int(num) >= len(p.places) || p.places[num] == unlisted {
		return
	}
	state := s.pieces[num]
	last := len(state.holders) - 1
	moved := state.holders[last]
	state.holders[p.places[num]], state.holders[last] = moved, nil
	moved.places[num] = p.places[num]
	p.places[num] = unlisted
	p.listed--
	state.holders = state.holders[:last]
	s.changeCopies(num, -1, 0)
	s.updateIdle(p)
}

func (s *Swarm) listAll(p *Peer) {
	for num := range p.serves.EachSet() {
		s.list(p, int32(num))
	}
}

func (s *Swarm) unlistAll(p *Peer) {
	for num := range p.serves.EachSet() {
		s.unlist(p, int32(num))
	}
}

// writingPiece is a piece that a peer has received and not reported as written.
type writingPiece struct {
	since  time.Time
	counts bool // as a copy to come
}

// beginWriting records that a peer received a piece and will write it.
func (s *Swarm) beginWriting(p *Peer, num int32, now time.Time) {
	if _, already := p.writing[num]; already {
		return
	}
	w := writingPiece{since: now, counts: p.mayServe()}
	if w.counts {
		s.changeCopies(num, 0, 1)
	}
	put(&p.writing, num, w)
	s.writing++
	s.graces.add(grace{p, num, now}, s.writing)
}

func (s *Swarm) endWriting(p *Peer, num int32) {
	w, found := p.writing[num]
	if !found {
		return
	}
	if w.counts {
		s.changeCopies(num, 0, -1)
	}
	drop(&p.writing, num)
	s.writing--
}
