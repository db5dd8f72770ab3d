package swarm

import (
	"slices"
	"strings"
	"time"

	"github.com/bits-and-blooms/bitset"
)

// PeerInfo holds what a peer states in its registration.
type PeerInfo struct {
	// ID identifies the peer within the task.
	ID string
	// IP, Port and Path are the address of its upload server. A peer with Port
	// 0 does not upload.
	IP   string
	Port int32
	Path string
	// HostName is the name of its host, Version that of its client.
	HostName string
	Version  string
}

// Peer is the state of one peer.
type Peer struct {
	PeerInfo

	have         *bitset.BitSet      // pieces that it has
	serves       *bitset.BitSet      // pieces that other peers may download from it
	writing      map[int32]time.Time // pieces in memory, not on disk yet, with the time of the semi-success
	running      map[int32]*transfer // its downloads, by piece
	uploads      int                 // number of pieces that it is sending
	avoids       map[string]time.Time
	copyFailures map[string]copyFailures // CDN copies that failed to serve it, by instance
	lastFailure  failureReport           // its last failure report; reset when that piece is offered again

	uploadFailures int       // consecutive failed downloads from it
	blockedUntil   time.Time // it is not offered as a source until then
	fetchFailures  int       // its own consecutive failed downloads from peers
	cdnOnlyUntil   time.Time // it downloads from CDN copies only until then

	migrant     bool     // it has pieces that were never reported to this swarm (see migrant.go)
	originKnown bool     // it has been decided whether it is a migrant
	sentinel    sentinel // of a migrant

	pieceTime time.Duration // smoothed duration of its recent uploads
	lastSeen  time.Time
	left      bool
}

// failureReport identifies a failed download by its piece and its source.
type failureReport struct {
	num  int32
	from string
}

const (
	// writeGrace is the time after a semi-success at which a piece counts as
	// written even if no report confirms it. It must be longer than a busy host
	// needs to write a piece: a peer that downloads too early gets wrong bytes.
	writeGrace = 10 * time.Second
	// avoidFor is how long a source that failed a peer is not offered to it.
	avoidFor = 30 * time.Second
	// After blockAfter consecutive failures a peer is not offered as a source
	// to any peer for blockFor. A peer whose own downloads from peers fail
	// blockAfter times in succession uses CDN copies only for blockFor.
	blockAfter = 5
	blockFor   = time.Minute
	// A CDN copy that failed a peer is not offered to it for cdnPause, doubled
	// with each consecutive failure up to cdnPauseMax. The pause is short
	// because the copy may be the only one. For another avoidFor the peer
	// prefers the other copies.
	cdnPause    = 100 * time.Millisecond
	cdnPauseMax = 3 * time.Second
)

func (p *Peer) canServe(now time.Time) bool {
	return !p.left && p.Port > 0 && !now.Before(p.blockedUntil)
}

// Seen records that the peer is alive. It reverses an earlier Down.
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

// Restarted ends the peer's running downloads. A peer sends its first pull after
// a registration without having received the earlier offers.
func (s *Swarm) Restarted(id string) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	s.endDownloads(p)
	return nil
}

// Written records that a piece is on the peer's disk. It is idempotent.
func (s *Swarm) Written(id string, num, size int32, now time.Time) error {
	return s.received(id, num, size, now, true)
}

// SemiSuccess records that the peer has downloaded a piece but not written it
// to its disk yet. The piece is offered from there only after Written, or once
// writeGrace has passed.
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
	if !written { // reports of written pieces are sent outside of pulls, at any time
		p.sentinelReported(num)
	}
	p.setSentinel(num)
	if p.serves.Test(uint(num)) {
		return nil
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

// Failed records that a peer could not download a piece. An empty from stands
// for the source of the current offer; an unknown from is not an error. isNew is
// false for a repeated report: a client sends the same report again as long as
// it is answered to wait, and that counts as one failure.
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
		// Instances on one address share an id: blame only the one that was offered.
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

// recordPeerFailure makes p avoid source. A source that fails repeatedly is
// blocked for all peers, and a peer that fails with many sources is limited to
// CDN copies.
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

// IsCDN reports whether a source id is that of a CDN copy, current or former.
func IsCDN(sourceID string) bool { return strings.HasPrefix(sourceID, "cdnnode:") }

// Lost records that a peer does not serve a piece that it had reported, or none
// of its pieces if num is negative. The pieces are not offered from there any
// more. They still count as downloaded by that peer.
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

// Down records that a peer has left: it neither uploads nor downloads any more.
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

// Expire removes the peers that left before leftBefore, and those whose last
// sign of life is older than silentBefore.
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
	// If no standby collects the changes, the log would grow without bound. From
	// this size on, a full update is smaller.
	if len(s.changes.peers) > 2*len(s.peers)+changeLogSlack {
		s.changes.reset()
		s.changes.full = true
	}
}

// changeLogSlack is how many peers the change log may hold in addition to twice
// the number of peers.
const changeLogSlack = 1000

// Holding describes a peer that serves pieces.
type Holding struct {
	PeerInfo
	// Pieces are the numbers of the pieces that it serves, in ascending order.
	Pieces []int32
	// Uploads is the number of pieces that it is sending at the moment.
	Uploads int
}

// Holdings returns the peers that serve at least one piece.
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
