package swarm

import (
	"slices"
	"strings"
	"time"

	"github.com/bits-and-blooms/bitset"
)

// PeerInfo is what a peer says of itself.
type PeerInfo struct {
	// ID is its name in the task.
	ID string
	// IP, Port and Path are where it serves; a Port of 0 serves nothing.
	IP   string
	Port int32
	Path string
	// HostName is its machine, Version its client.
	HostName string
	Version  string
}

// Peer is a peer and what is known of it.
type Peer struct {
	PeerInfo

	have         *bitset.BitSet      // pieces that it need not fetch any more
	serves       *bitset.BitSet      // pieces that others may take from it
	writing      map[int32]time.Time // pieces that it has and is about to write, since when
	running      map[int32]*transfer // pieces that it is fetching
	uploads      int                 // pieces that it is sending
	avoids       map[string]time.Time
	copyFailures map[string]copyFailures // CDN copies that failed it, by instance
	lastFailure  failureReport           // the last that it told of and was not offered again

	uploadFailures int       // fetches from it that failed in a row
	blockedUntil   time.Time // nobody takes anything from it until then
	fetchFailures  int       // its own fetches from peers that failed in a row
	cdnOnlyUntil   time.Time // it takes nothing from peers until then

	migrant     bool     // it has pieces that nobody here was told of
	originKnown bool     // it is settled whether it is a migrant
	sentinel    sentinel // a migrant's

	pieceTime time.Duration // recent time of a piece that it sent, smoothed
	lastSeen  time.Time
	left      bool
}

// failureReport is a piece that could not be had from somebody.
type failureReport struct {
	num  int32
	from string
}

const (
	// writeGrace is how long after a semi-success a piece counts as written
	// when no report says so. The report follows the writing, which takes a
	// busy machine seconds; others who come too early get other bytes.
	writeGrace = 10 * time.Second
	// avoidFor is how long a peer takes nothing from one that failed it.
	avoidFor = 30 * time.Second
	// blockAfter failures in a row nobody takes anything from a peer, for blockFor.
	blockAfter = 5
	blockFor   = time.Minute
	// A CDN copy that failed a peer is not offered to it for cdnPause, doubled
	// with each failure in a row up to cdnPauseMax: it may be the only copy.
	// For avoidFor longer it comes behind the other copies.
	cdnPause    = 100 * time.Millisecond
	cdnPauseMax = 3 * time.Second
)

func (p *Peer) canServe(now time.Time) bool {
	return !p.left && p.Port > 0 && !now.Before(p.blockedUntil)
}

// Seen notes that the peer is alive.
func (s *Swarm) Seen(id string, now time.Time) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	if p.left {
		s.changes.addPeer(id)
	}
	p.lastSeen, p.left = now, false
	return nil
}

// Restarted forgets what the peer was fetching: its first pull after a
// registration says that it may not have been told.
func (s *Swarm) Restarted(id string) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	s.endDownloads(p)
	return nil
}

// Written says that a piece is on the peer's disk; twice is as good as once.
func (s *Swarm) Written(id string, num, size int32, now time.Time) error {
	return s.received(id, num, size, now, true)
}

// SemiSuccess says that a piece is at the peer and will be written now.
func (s *Swarm) SemiSuccess(id string, num, size int32, now time.Time) error {
	return s.received(id, num, size, now, false)
}

func (s *Swarm) received(id string, num, size int32, now time.Time, written bool) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	if err := s.validateReport(p, num, size); err != nil {
		return err
	}
	if t := p.running[num]; t != nil {
		s.completeTransfer(t, now)
	}
	if !written { // what is written is told at any time
		p.sentinelReported(num)
	}
	p.setSentinel(num)
	if p.serves.Test(uint(num)) {
		return nil // and it has it
	}
	s.changes.addPeerPiece(id, num)
	p.have.Set(uint(num))
	if written {
		s.serve(p, num)
	} else if _, since := p.writing[num]; !since {
		p.writing[num] = now
	}
	return nil
}

// Failed says that a peer could not get a piece, for any cause. Without a from
// it is where the piece was last offered from; one that is
// not known is no error. News is false for what was told before: a client
// repeats its report for as long as it is told to wait, and that is one failure.
func (s *Swarm) Failed(id string, num, size int32, from string, now time.Time) (isNew bool, err error) {
	p, err := s.peer(id)
	if err != nil {
		return false, err
	}
	if err := s.validateReport(p, num, size); err != nil {
		return false, err
	}
	t := p.running[num]
	if t == nil && p.lastFailure == (failureReport{num, from}) {
		return false, nil
	}
	p.lastFailure = failureReport{num, from}
	var sender *cdnCopy
	if t != nil {
		if from == "" {
			from = sourceID(t)
		}
		sender = t.cdn
		s.endTransfer(t)
	}
	switch {
	case sender != nil && sender.ID == from:
		// Another instance on the same address has the same name.
		p.recordCopyFailure(sender, now)
	case IsCDN(from):
		for _, c := range s.copies {
			if c.ID == from {
				p.recordCopyFailure(c, now)
			}
		}
	default:
		if source := s.peers[from]; source != nil {
			p.recordPeerFailure(source, now)
		}
	}
	return true, nil
}

// recordPeerFailure keeps p away from source for a while, everybody if it fails everybody,
// and p from all peers if they all fail it.
func (p *Peer) recordPeerFailure(source *Peer, now time.Time) {
	p.avoids[source.ID] = now.Add(avoidFor)
	if source.uploadFailures++; source.uploadFailures >= blockAfter {
		source.blockedUntil = now.Add(blockFor)
		source.uploadFailures = 0
	}
	if p.fetchFailures++; p.fetchFailures >= blockAfter {
		p.cdnOnlyUntil = now.Add(blockFor)
		p.fetchFailures = 0
	}
}

// IsCDN tells whether an id is that of a CDN copy, of this cluster or of an
// instance that is no more.
func IsCDN(sourceID string) bool { return strings.HasPrefix(sourceID, "cdnnode:") }

// Lost says that a peer does not have a piece, or any (num < 0), although it said so.
// The peer itself keeps what it has: only others do not take it from there.
func (s *Swarm) Lost(sourceID string, num int32) {
	source := s.peers[sourceID]
	if source == nil {
		return
	}
	if num < 0 {
		s.stopServing(source)
		return
	}
	s.withdraw(source, num)
}

// Down says that a peer serves no more and asks for nothing more.
func (s *Swarm) Down(id string, now time.Time) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	s.changes.addPeer(id)
	p.lastSeen, p.left = now, true
	s.stopServing(p)
	s.endDownloads(p)
	return nil
}

func (s *Swarm) stopServing(p *Peer) {
	for num := range p.serves.EachSet() {
		s.withdraw(p, int32(num))
	}
	for num := range p.writing {
		s.withdraw(p, num)
	}
}

func (s *Swarm) withdraw(p *Peer, num int32) {
	if _, writing := p.writing[num]; !writing && !p.serves.Test(uint(num)) {
		return
	}
	s.changes.addPeerPiece(p.ID, num)
	delete(p.writing, num)
	if !p.serves.Test(uint(num)) {
		return
	}
	p.serves.Clear(uint(num))
	state := s.pieces[num]
	state.holders = slices.DeleteFunc(state.holders, func(h *Peer) bool { return h == p })
}

// Expire drops peers that left, or were not heard of, before the given times.
func (s *Swarm) Expire(leftBefore, silentBefore time.Time) {
	for id, p := range s.peers {
		if p.left && p.lastSeen.Before(leftBefore) || p.lastSeen.Before(silentBefore) {
			s.stopServing(p)
			s.endDownloads(p)
			s.endUploads(p)
			delete(s.peers, id)
			s.changes.addPeer(id)
		}
	}
	// Nobody may be asking for what changed: then all there is is less.
	if len(s.changes.peers) > 2*len(s.peers)+changeLogSlack {
		s.changes.reset()
		s.changes.full = true
	}
}

// changeLogSlack is how many peers more than there are may be kept as changed.
const changeLogSlack = 1000

// Holding is a peer as others may see it.
type Holding struct {
	PeerInfo
	// Pieces are the numbers of those that it serves, ascending.
	Pieces []int32
	// Uploads is the number of pieces that it is sending.
	Uploads int
}

// Holdings lists the peers that serve anything.
func (s *Swarm) Holdings(now time.Time) []Holding {
	var list []Holding
	for _, p := range s.peers {
		if !p.canServe(now) || p.serves.None() {
			continue
		}
		h := Holding{PeerInfo: p.PeerInfo, Uploads: p.uploads}
		for num := range p.serves.EachSet() {
			h.Pieces = append(h.Pieces, int32(num))
		}
		list = append(list, h)
	}
	return list
}
