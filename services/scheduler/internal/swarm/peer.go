package swarm

import (
	"net/netip"
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

// Peer is the state of one peer. Most peers only serve, and there may be very many
// of them: a map that is empty is nil. It is changed by put and drop only.
type Peer struct {
	PeerInfo
	network netip.Prefix // the /24 of IP

	pieces  int                    // bits in have
	have    *bitset.BitSet         // pieces that it need not fetch any more
	serves  *bitset.BitSet         // pieces that others may take from it
	writing map[int32]writingPiece // pieces that it received and has not reported as written
	places  []int32                // its place in the list of holders, by piece
	listed  int                    // pieces in whose list of holders it is
	running map[int32]*transfer    // pieces that it is fetching
	sending map[*transfer]struct{} // pieces that it is sending
	active  int                    // transfers in running that are not overdue
	fromCDN int                    // those of them that a CDN copy sends
	uploads int                    // transfers in sending that are not overdue

	source         sourceState
	sent           int // pieces, since it was unproven
	uploadFailures int // fetches from it that failed in a row
	suspensions    int // in a row
	suspendedUntil time.Time
	suspendedPlace int  // in Swarm.suspended
	idlePlace      int  // in Swarm.idle
	slotIsNews     bool // it is in heldPulls.sources

	avoids        map[string]time.Time
	copyFailures  map[string]copyFailures // CDN copies that failed it, by instance
	lastFailure   failureReport           // the last that it reported and was not offered again
	failedSource  string                  // of the last transfer to it that failed
	fetchFailures int                     // its own fetches from peers that failed in a row
	cdnOnlyUntil  time.Time               // it takes nothing from peers until then

	origin   origin
	sentinel sentinel // of a migrant

	sendTime     smoothed // of a piece that it sent
	fetchTime    smoothed // of a piece that it fetched
	lastSuccess  time.Time
	waitingSince time.Time // zero when its last pull was given pieces
	triedAt      time.Time // when pieces were last looked for on its behalf
	lastSeen     time.Time
	left         bool

	waiter  *waiter // its pull that is held, or nil
	counted counted
}

// put stores a value in a map, which it creates for the first key.
func put[K comparable, V any](m *map[K]V, key K, value V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[key] = value
}

// drop deletes a key from a map, which it releases with the last key. The map may
// be the one that the caller iterates over.
func drop[K comparable, V any](m *map[K]V, key K) {
	if delete(*m, key); len(*m) == 0 {
		*m = nil
	}
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
	// A CDN copy that failed a peer is not offered to it for cdnPause, doubled
	// with each consecutive failure up to cdnPauseMax. The pause is short
	// because the copy may be the only one. For another avoidFor the peer
	// prefers the other copies.
	cdnPause    = 100 * time.Millisecond
	cdnPauseMax = 3 * time.Second
)

// Seen records that the peer is alive. It reverses an earlier Down.
// It takes constant time, after Down O(pieces that the peer has reported since).
func (s *Swarm) Seen(id string, now time.Time) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	p.lastSeen = now
	if p.left {
		p.left = false
		s.changes.addPeer(id)
		s.listAll(p) // what it reported meanwhile
		s.recount(p, now)
		s.wake(p)
	}
	return nil
}

// Restarted ends the peer's running downloads. A peer sends its first pull after
// a registration without having received the earlier offers.
// It takes O(k log n) for the k pieces that the peer is downloading, at most 6.
func (s *Swarm) Restarted(id string) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	s.endDownloads(p)
	return nil
}

// Written records that a piece is on the peer's disk. It is idempotent.
// It takes O(log n) for n transfers.
func (s *Swarm) Written(id string, num, size int32, now time.Time) error {
	return s.received(id, num, size, now, true)
}

// SemiSuccess records that the peer has downloaded a piece but not written it
// to its disk yet. The piece is offered from there only after Written, or once
// writeGrace has passed.
// It takes O(log n) for n transfers.
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
	s.gain(p, num)
	if written {
		s.serve(p, num)
	} else {
		s.beginWriting(p, num, now)
	}
	return nil
}

// gain records that a peer has a piece.
func (s *Swarm) gain(p *Peer, num int32) {
	if p.have.Test(uint(num)) {
		return
	}
	p.have.Set(uint(num))
	p.pieces++
	if s.complete(p) {
		s.recount(p, p.lastSeen)
	}
	s.wake(p)
}

// Failed records that a peer could not download a piece. An empty from stands
// for the source of the current offer; an unknown from is not an error. isNew is
// false for a repeated report: a client sends the same report again as long as
// it is answered to wait, and that counts as one failure.
// It takes O(copies + log n) for n transfers, and O(pieces of the source) if that
// suspends the source.
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
		p.failedSource = sourceID(t)
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
	case sender == nil && t != nil && t.from.ID == from:
		if !t.blamed {
			s.recordPeerFailure(p, t.from, now)
		}
	case s.peers[from] != nil:
		// No transfer from there was scheduled here: the source is not to blame.
		put(&p.avoids, from, now.Add(avoidFor))
	}
	return true, nil
}

// IsCDN reports whether a source id is that of a CDN copy, current or former.
func IsCDN(sourceID string) bool { return strings.HasPrefix(sourceID, "cdnnode:") }

// Lost records that a source does not have a piece, or any (num < 0), although it
// was offered from there. The source itself keeps what it has: only others do
// not take it from there. A report by a peer that was not sent to that source
// changes nothing.
// It takes constant time for one piece, O(pieces of the source) for all.
func (s *Swarm) Lost(reporterID, sourceID string, num int32) {
	reporter, source := s.peers[reporterID], s.peers[sourceID]
	if reporter == nil || source == nil || !reporter.wasSentTo(source) {
		return
	}
	if num < 0 {
		s.withdrawAll(source)
		return
	}
	s.withdraw(source, num)
}

// wasSentTo tells whether a transfer from source to p is running, or was the
// last that failed.
func (p *Peer) wasSentTo(source *Peer) bool {
	for _, t := range p.running {
		if t.from == source {
			return true
		}
	}
	return p.failedSource == source.ID
}

// Down records that a peer has left: it neither uploads nor downloads any more.
// It takes O(pieces of the peer).
func (s *Swarm) Down(id string, now time.Time) error {
	p, err := s.peer(id)
	if err != nil {
		return err
	}
	s.changes.addPeer(id)
	p.lastSeen, p.left = now, true
	s.withdrawAll(p)
	s.endDownloads(p)
	s.recount(p, now)
	return nil
}

// Expire removes those of the next expireChunk peers that left before leftBefore,
// and those whose last sign of life is older than silentBefore. A peer whose pull
// is held stays. After the last peer it returns false, and the next call begins
// with the first one again.
// It takes O(expireChunk + pieces of the peers that it removes).
func (s *Swarm) Expire(leftBefore, silentBefore time.Time) (more bool) {
	more = s.peerList.visit(&s.peerList.toExpire, expireChunk, func(p *Peer) {
		if p.waiter == nil && (p.left && p.lastSeen.Before(leftBefore) || p.lastSeen.Before(silentBefore)) {
			s.removePeer(p)
		}
	})
	// If no standby collects the changes, the log would grow without bound. From
	// this size on, a full update is smaller.
	if len(s.changes.peers) > 2*len(s.peers)+changeLogSlack {
		s.changes.reset()
		s.changes.full = true
	}
	return more
}

// expireChunk is how many peers one call of Expire looks at.
const expireChunk = 1024

func (s *Swarm) removePeer(p *Peer) {
	p.left = true
	s.withdrawAll(p)
	s.endDownloads(p)
	s.endUploads(p.sending)
	if p.source == suspended {
		s.suspended.remove(p)
	}
	s.recount(p, p.lastSeen)
	s.peerList.remove(p)
	delete(s.peers, p.ID)
	s.changes.addPeer(p.ID)
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

// Sources returns the ids of the peers that serve at least one piece.
func (s *Swarm) Sources() []string {
	var list []string
	for id, p := range s.peers {
		if p.mayServe() && p.serves.Any() {
			list = append(list, id)
		}
	}
	return list
}

// Holding returns what a peer serves. found is false if that is nothing.
func (s *Swarm) Holding(id string) (h Holding, found bool) {
	p := s.peers[id]
	if p == nil || !p.mayServe() || p.serves.None() {
		return Holding{}, false
	}
	h = Holding{PeerInfo: p.PeerInfo, Uploads: p.uploads, Pieces: make([]int32, 0, p.serves.Count())}
	for num := range p.serves.EachSet() {
		h.Pieces = append(h.Pieces, int32(num))
	}
	return h, true
}
