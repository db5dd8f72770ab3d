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

	have    *bitset.BitSet      // pieces that it need not fetch any more
	serves  *bitset.BitSet      // pieces that others may take from it
	writing map[int32]time.Time // pieces that it has and is about to write, since when
	running map[int32]*transfer // pieces that it is fetching
	uploads int                 // pieces that it is sending
	avoids  map[string]time.Time
	sulks   map[string]sulk // CDN copies that failed it, by instance
	failed  failure         // the last that it told of and was not offered again

	failedRow    int       // fetches from it that failed in a row
	blockedUntil time.Time // nobody takes anything from it until then
	fetchRow     int       // its own fetches from peers that failed in a row
	cdnOnlyUntil time.Time // it takes nothing from peers until then

	migrant bool // it has pieces that nobody here was told of
	known   bool // it is settled whether it is a migrant
	bell    bell // a migrant's

	took time.Duration // recent time of a piece that it sent, smoothed
	seen time.Time
	gone bool
}

// failure is a piece that could not be had from somebody.
type failure struct {
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
	return !p.gone && p.Port > 0 && !now.Before(p.blockedUntil)
}

// Seen notes that the peer is alive.
func (s *Swarm) Seen(id string, now time.Time) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	if p.gone {
		s.ledger.peer(id)
	}
	p.seen, p.gone = now, false
	return nil
}

// Restarted forgets what the peer was fetching: its first pull after a
// registration says that it may not have been told.
func (s *Swarm) Restarted(id string) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	s.dropRunning(p)
	return nil
}

// Got says that a piece is on the peer's disk; twice is as good as once.
func (s *Swarm) Got(id string, num, size int32, now time.Time) error {
	return s.got(id, num, size, now, true)
}

// Receiving says that a piece is at the peer and will be written now.
func (s *Swarm) Receiving(id string, num, size int32, now time.Time) error {
	return s.got(id, num, size, now, false)
}

func (s *Swarm) got(id string, num, size int32, now time.Time, written bool) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	if err := s.told(p, num, size); err != nil {
		return err
	}
	if t := p.running[num]; t != nil {
		s.succeeded(t, now)
	}
	if !written { // what is written is told at any time
		p.rang(num)
	}
	p.hangBell(num)
	if p.serves.Test(uint(num)) {
		return nil // and it has it
	}
	s.ledger.pieceOf(id, num)
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
func (s *Swarm) Failed(id string, num, size int32, from string, now time.Time) (news bool, err error) {
	p, err := s.peer(id)
	if err != nil {
		return false, err
	}
	if err := s.told(p, num, size); err != nil {
		return false, err
	}
	t := p.running[num]
	if t == nil && p.failed == (failure{num, from}) {
		return false, nil
	}
	p.failed = failure{num, from}
	var sender *cdnCopy
	if t != nil {
		if from == "" {
			from = sourceID(t)
		}
		sender = t.cdn
		s.end(t)
	}
	switch {
	case sender != nil && sender.ID == from:
		// Another instance on the same address has the same name.
		p.accuse(sender, now)
	case IsCDN(from):
		for _, c := range s.copies {
			if c.ID == from {
				p.accuse(c, now)
			}
		}
	default:
		if source := s.peers[from]; source != nil {
			p.blame(source, now)
		}
	}
	return true, nil
}

// blame keeps p away from source for a while, everybody if it fails everybody,
// and p from all peers if they all fail it.
func (p *Peer) blame(source *Peer, now time.Time) {
	p.avoids[source.ID] = now.Add(avoidFor)
	if source.failedRow++; source.failedRow >= blockAfter {
		source.blockedUntil = now.Add(blockFor)
		source.failedRow = 0
	}
	if p.fetchRow++; p.fetchRow >= blockAfter {
		p.cdnOnlyUntil = now.Add(blockFor)
		p.fetchRow = 0
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
	s.ledger.peer(id)
	p.seen, p.gone = now, true
	s.stopServing(p)
	s.dropRunning(p)
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
	s.ledger.pieceOf(p.ID, num)
	delete(p.writing, num)
	if !p.serves.Test(uint(num)) {
		return
	}
	p.serves.Clear(uint(num))
	ch := s.chunks[num]
	ch.holders = slices.DeleteFunc(ch.holders, func(h *Peer) bool { return h == p })
}

// Forget drops peers that left, or were not heard of, before the given times.
func (s *Swarm) Forget(leftBefore, silentBefore time.Time) {
	for id, p := range s.peers {
		if p.gone && p.seen.Before(leftBefore) || p.seen.Before(silentBefore) {
			s.stopServing(p)
			s.dropRunning(p)
			s.dropSending(p)
			delete(s.peers, id)
			s.ledger.peer(id)
		}
	}
	// Nobody may be asking for what changed: then all there is is less.
	if len(s.ledger.peers) > 2*len(s.peers)+slack {
		s.ledger.open()
		s.ledger.anew = true
	}
}

// slack is how many peers more than there are may be kept as changed.
const slack = 1000

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
