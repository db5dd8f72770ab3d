// Package swarm tracks one task's peers, pieces and CDN copies, and chooses
// which pieces each peer downloads next and from which source. It is a plain
// data structure: one goroutine owns it, the current time is an argument, and
// no function blocks, performs I/O or logs.
//
// Invariants:
//
//   - A peer downloads at most Limits.Down pieces and uploads at most Limits.Up
//     pieces at the same time.
//   - A transfer is counted at its receiver, at its source and at its piece. The
//     source and the piece stop counting it when it is overdue (transfer.go).
//   - A piece is offered only from a source that has reported it complete.
//
// A piece at one peer passes through these states:
//
//	missing --Offer--> running --SemiSuccess--> writing --Written, 10 s--> served
//
//	running --Written--> served
//	running --Failed, Restarted, Undelivered, client's time-out--> missing
//	writing, served --Lost, Down--> held
//
// "held" means that the peer has the piece, but that it is not offered to
// other peers from there.
package swarm

import (
	"container/list"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/bits-and-blooms/bitset"

	"github.com/supernode-ha/supernode/pkg/piece"
)

var (
	// ErrNoPeer is returned for a peer that never registered or has expired.
	ErrNoPeer = errors.New("unknown peer")
	// ErrNoPiece is returned for a piece number or piece size that the task
	// cannot have.
	ErrNoPiece = errors.New("the task has no such piece")
	// ErrNotYet is returned for a piece that the task may have, but that no CDN
	// copy has reported. A peer can have such a piece if it downloaded it while
	// another scheduler answered for the task.
	ErrNotYet = errors.New("the piece has not landed yet")
	// ErrConflict is returned for facts, a piece or a result that contradict
	// the version of the source that the swarm has already recorded.
	ErrConflict = errors.New("the source changed")
	// ErrResized is returned for facts with another piece size. The pieces that
	// peers already have are not usable with it.
	ErrResized = errors.New("the piece size changed")
)

// Limits holds the number of transfers that a peer may have at the same time.
type Limits struct {
	// Up is the maximum number of pieces that a peer uploads at the same time,
	// at least 1.
	Up int
	// Down is the maximum number of pieces that a peer downloads at the same
	// time, at least 1.
	Down int
}

// Facts holds the properties of the source, which are available once it has
// answered.
type Facts struct {
	// Length is the content's length in bytes, or -1 if it is unknown.
	Length int64
	// PieceSize is the wrapped size of a piece in bytes.
	PieceSize int32
	// ETag and LastModified are the source's validators, verbatim.
	ETag         string
	LastModified string
}

// Result describes the complete content of a task.
type Result struct {
	// MD5 is the hex MD5 of the content.
	MD5 string
	// Length is the content's length in bytes.
	Length int64
	// PieceCount is the number of pieces.
	PieceCount int32
}

// Offer names a piece and the source from which a peer is to download it.
type Offer struct {
	// Num is the number of the piece.
	Num int32
	// MD5 and Length are those of the wrapped piece.
	MD5    string
	Length int32
	// SourceID identifies the source; IP, Port and Path are its address.
	SourceID string
	IP       string
	Port     int32
	Path     string
	// FromCDN is set if the source is a CDN copy.
	FromCDN bool
	// Repeated is set if the peer has received the offer before and is only
	// asked for its outcome.
	Repeated bool

	transfer *transfer
}

// pieceState holds a piece's checksum, its holders and its running transfers.
type pieceState struct {
	md5     string
	length  int32
	holders []*Peer // peers that serve it, in no order
	sent    int     // how often it was offered from a CDN copy
}

// Swarm is the state of one task. It is not safe for concurrent use.
type Swarm struct {
	limits   Limits
	capacity Capacity
	random   *rand.Rand

	facts      Facts
	factsKnown bool // facts is set
	offered    bool // a piece of the current version has been offered to a peer
	result     *Result
	pieces     []*pieceState
	landed     int // number of pieces that are known
	available  availability
	copies     []*cdnCopy // few: the owner's and its replicas'
	peers      map[string]*Peer
	changes    changeLog

	deadlines     timeline[*transfer] // all transfers
	fromCDN       int                 // number of active transfers from CDN copies
	landedAtPeers int                 // number of transfers from CDN copies that arrived
	writing       int                 // number of pieces that peers are writing
	graces        graces              // when they count as written
	suspended     timeline[*Peer]     // suspended sources
	idle          []*Peer             // sources with a free slot, in no order
	held          heldPulls
	exchanged     meter    // bytes that peers sent each other
	pieceTime     smoothed // duration of a transfer between peers

	peerList   peerList
	reviewed   time.Time // when the last review of all peers began
	worthSince time.Time // since when the CDN is worth its help, zero if it is not
	helping    bool      // the CDN sends second copies
	work       Work
}

// Capacity is this task's part of what CDN instances may send at the same time.
type Capacity interface {
	// Take takes one transfer from an instance. It is false when the instance has
	// no room for one.
	Take(instance string, now time.Time) bool
	// Release gives one back.
	Release(instance string)
	// Free returns how many transfers Take would give.
	Free(instance string, now time.Time) int
	// Close ends the task's part.
	Close()
}

// New returns an empty swarm. Transfers from CDN copies are taken from capacity;
// random decides between equals.
func New(limits Limits, capacity Capacity, random *rand.Rand) *Swarm {
	return &Swarm{
		limits: limits, capacity: capacity, random: random, peers: make(map[string]*Peer), held: heldPulls{order: list.New(), fallbackDue: list.New()},
	}
}

// SetFacts records the facts of the source as a CDN copy reports them. Facts
// that contradict the recorded ones are refused with ErrConflict or ErrResized.
// There is one exception: if no peer can have a piece of the recorded version,
// the owner's facts replace it.
// It takes O(copies), with a new version O(peers + pieces) once.
func (s *Swarm) SetFacts(instance string, f Facts) error {
	c := s.copyOf(instance)
	switch {
	case c == nil:
		return fmt.Errorf("facts of %s: %w", instance, ErrNoCopy)
	case !s.factsKnown:
	case f.PieceSize != s.facts.PieceSize:
		return fmt.Errorf("piece size %d after %d: %w", f.PieceSize, s.facts.PieceSize, ErrResized)
	case f.Length < 0:
		return nil
	case s.facts.Length >= 0 && f.Length != s.facts.Length:
		if !c.Owner || s.VersionInUse() {
			return fmt.Errorf("length %d after %d: %w", f.Length, s.facts.Length, ErrConflict)
		}
		s.discardVersion(c)
	case s.facts.Length >= 0 && !c.Owner:
		return nil // mirrors of one source may have different validators: the owner's count
	}
	s.facts, s.factsKnown = f, true
	s.changes.facts = s.changes.enabled
	return nil
}

// Facts returns the facts of the source, and false if they are unknown.
func (s *Swarm) Facts() (Facts, bool) { return s.facts, s.factsKnown }

// SetResult records that a CDN copy is complete. It returns ErrConflict if the
// result differs from an earlier one, or from the number of pieces that landed.
// It takes O(copies), the first time O(peers).
func (s *Swarm) SetResult(instance string, r Result) error {
	if s.copyOf(instance) == nil {
		return fmt.Errorf("result of %s: %w", instance, ErrNoCopy)
	}
	if s.result != nil && *s.result != r {
		return fmt.Errorf("md5 %s after %s: %w", r.MD5, s.result.MD5, ErrConflict)
	}
	if int(r.PieceCount) != len(s.pieces) {
		return fmt.Errorf("result has %d pieces, but %d have landed: %w", r.PieceCount, len(s.pieces), ErrConflict)
	}
	if s.result == nil {
		s.result = &r
		s.changes.result = s.changes.enabled
		s.recountAll()
		s.WakeAll() // those that have all pieces are finished
	}
	if s.factsKnown && s.facts.Length < 0 {
		s.facts.Length = r.Length
		s.changes.facts = s.changes.enabled
	}
	return nil
}

// Result returns the task's result, and false if no CDN copy is complete yet.
func (s *Swarm) Result() (Result, bool) {
	if s.result == nil {
		return Result{}, false
	}
	return *s.result, true
}

// WrappedLength returns the total length of all wrapped pieces in bytes.
func (r Result) WrappedLength() int64 { return r.Length + int64(r.PieceCount)*piece.WrapLength }

// Finished reports whether the task has a result and the peer has every piece.
// It takes constant time.
func (s *Swarm) Finished(peerID string) bool {
	p := s.peers[peerID]
	return p != nil && s.complete(p)
}

// complete reports whether a peer has every piece of a whole task.
func (s *Swarm) complete(p *Peer) bool {
	return s.result != nil && p.pieces == int(s.result.PieceCount)
}

// PeerIDs returns the ids of all peers, including those that have left.
// It takes O(peers).
func (s *Swarm) PeerIDs() []string { return slices.Collect(maps.Keys(s.peers)) }

// Unfinished returns the number of peers that have not left and miss pieces.
// It takes constant time.
func (s *Swarm) Unfinished() int { return s.peerList.unfinished }

// Downloading returns the number of peers that the end of the process would interrupt:
// peers that miss pieces and have a transfer or have made a call of late, and peers
// that have all pieces and may not have received the result yet.
// It takes O(peers).
func (s *Swarm) Downloading(now time.Time) int {
	n := 0
	for _, p := range s.peers {
		silent := now.Sub(p.lastSeen)
		switch complete := s.complete(p); {
		case p.left:
		case complete && silent < resultGrace, !complete && (silent < pullGrace || p.active > 0):
			n++
		}
	}
	return n
}

// Peers returns the number of peers, including those that have left.
// It takes constant time.
func (s *Swarm) Peers() int { return len(s.peers) }

// HasPeer reports whether the swarm has a peer, which may have left.
func (s *Swarm) HasPeer(id string) bool { return s.peers[id] != nil }

// checkPiece returns ErrNoPiece if the task cannot have the piece in that size,
// and ErrNotYet if the piece has not landed on any CDN copy.
func (s *Swarm) checkPiece(num, size int32) error {
	if s.factsKnown && size != s.facts.PieceSize {
		return fmt.Errorf("piece size %d of %d: %w", size, s.facts.PieceSize, ErrNoPiece)
	}
	if limit := s.pieceLimit(); num < 0 || int(num) >= limit {
		return fmt.Errorf("piece %d of at most %d: %w", num, limit, ErrNoPiece)
	}
	if int(num) >= len(s.pieces) || s.pieces[num].md5 == "" {
		return fmt.Errorf("piece %d: %w", num, ErrNotYet)
	}
	return nil
}

// pieceLimit returns an upper bound on the task's number of pieces: the exact
// number if the length or the result is known.
func (s *Swarm) pieceLimit() int {
	switch {
	case s.result != nil:
		return len(s.pieces)
	case s.factsKnown && s.facts.Length >= 0:
		return int(piece.Count(s.facts.Length, s.facts.PieceSize))
	}
	return len(s.pieces) + maxPiecesAhead
}

func (s *Swarm) peer(id string) (*Peer, error) {
	p := s.peers[id]
	if p == nil {
		return nil, fmt.Errorf("%.255q: %w", id, ErrNoPeer)
	}
	return p, nil
}

// AddPeer registers a peer. A peer that registers again keeps its pieces.
// It takes constant time, O(pieces of the peer) if it begins or ceases to serve.
func (s *Swarm) AddPeer(info PeerInfo, now time.Time) {
	if p := s.peers[info.ID]; p != nil {
		s.changes.addPeer(info.ID)
		served := p.mayServe()
		if p.source == suspended && (p.IP != info.IP || p.Port != info.Port) {
			s.suspended.remove(p)
		}
		if p.IP != info.IP || p.Port != info.Port { // what failed there says nothing of the new address
			p.source, p.sent, p.uploadFailures, p.suspensions = unproven, 0, 0, 0
		}
		p.PeerInfo, p.network, p.lastSeen, p.left = info, networkOf(info.IP), now, false
		switch serves := p.mayServe(); {
		case serves && !served:
			s.listAll(p)
		case served && !serves:
			s.unlistAll(p)
		}
		s.updateIdle(p)
		s.recount(p, now)
		s.wake(p)
		return
	}
	s.changes.addNewPeer(info.ID)
	p := &Peer{
		PeerInfo: info, network: networkOf(info.IP), lastSeen: now, suspendedPlace: outside, idlePlace: outside,
		have: &bitset.BitSet{}, serves: &bitset.BitSet{},
	}
	s.peers[info.ID] = p
	s.peerList.add(p)
	s.recount(p, now)
}
