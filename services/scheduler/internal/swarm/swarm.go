// Package swarm is one task's memory: which pieces there are, which peers,
// who has what, who is fetching what from whom, and the choice of what a peer
// fetches next. It is a plain data structure: one goroutine owns it, time is
// an argument, and nothing here waits, calls or logs.
//
// Invariants: a peer has at most Down transfers running and sends at most Up
// pieces; a transfer is counted at its receiver, its sender and its piece, and
// ends at all three at once; a piece is offered only from where it is believed
// to be whole.
package swarm

import (
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"time"

	"github.com/bits-and-blooms/bitset"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/scheduler/internal/budget"
)

var (
	// ErrNoPeer is a peer that never registered, or was forgotten.
	ErrNoPeer = errors.New("unknown peer")
	// ErrNoPiece is a piece that the task does not have.
	ErrNoPiece = errors.New("the task has no such piece")
	// ErrNotYet is a piece that the task may have, and that no CDN copy has
	// told of: a peer can know it from before this swarm was made.
	ErrNotYet = errors.New("the piece has not landed yet")
	// ErrConflict is a second version of what is known already.
	ErrConflict = errors.New("the source changed")
	// ErrResized is a second piece size: the pieces that peers have fit no more.
	ErrResized = errors.New("the piece size changed")
)

// Limits bound what a swarm gives out.
type Limits struct {
	// Up is how many pieces a peer sends at the same time, at least 1.
	Up int
	// Down is how many pieces a peer fetches at the same time, at least 1.
	Down int
}

// Facts are what is known of the source once it has answered.
type Facts struct {
	// Length is the number of bytes, -1 when unknown.
	Length int64
	// PieceSize is the wrapped size of a piece in bytes.
	PieceSize int32
	// ETag and LastModified are the source's validators, as it sent them.
	ETag         string
	LastModified string
}

// Result is the whole task.
type Result struct {
	// MD5 is the hex MD5 of the content.
	MD5 string
	// Length is the number of bytes of the content.
	Length int64
	// PieceCount is the number of pieces.
	PieceCount int32
}

// Offer tells a peer where to take a piece.
type Offer struct {
	// Num is the piece.
	Num int32
	// MD5 and Length are those of the wrapped piece.
	MD5    string
	Length int32
	// SourceID, IP, Port and Path are who has it and where.
	SourceID string
	IP       string
	Port     int32
	Path     string
	// FromCDN tells whether that is a CDN copy.
	FromCDN bool
	// Repeated tells that the peer was told of the piece before, and only has to say
	// what became of it.
	Repeated bool

	transfer *transfer
}

// pieceState is a piece and where it is.
type pieceState struct {
	md5     string
	length  int32
	holders []*Peer
	// transfers are the transfers of it that run.
	transfers map[*transfer]struct{}
}

// Swarm is one task's memory.
type Swarm struct {
	limits    Limits
	budget    *budget.Budget
	orderSeed maphash.Seed // makes the order in which equals are taken unlike other swarms'

	facts      Facts
	factsKnown bool // facts are there
	offered    bool // a piece of this version was offered
	result     *Result
	pieces     []*pieceState
	copies     []*cdnCopy // few: the owner's and its replicas'
	peers      map[string]*Peer
	changes    changeLog
}

// New makes an empty swarm. Bytes that a CDN is asked for are taken from b.
func New(limits Limits, b *budget.Budget) *Swarm {
	return &Swarm{limits: limits, budget: b, orderSeed: maphash.MakeSeed(), peers: make(map[string]*Peer)}
}

// SetFacts notes the facts of the source, as a copy tells them. Facts that
// contradict those known are ErrConflict, or ErrResized; the owner's count
// more than what was known as long as no peer has anything of that.
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
		return nil // validators differ from server to server of one source
	}
	s.facts, s.factsKnown = f, true
	s.changes.facts = s.changes.enabled
	return nil
}

// Facts gives the facts of the source, if they are known.
func (s *Swarm) Facts() (Facts, bool) { return s.facts, s.factsKnown }

// SetResult says that the task is whole on a copy. A second, different result
// is ErrConflict.
func (s *Swarm) SetResult(instance string, r Result) error {
	if s.copyOf(instance) == nil {
		return fmt.Errorf("result of %s: %w", instance, ErrNoCopy)
	}
	if s.result != nil && *s.result != r {
		return fmt.Errorf("md5 %s after %s: %w", r.MD5, s.result.MD5, ErrConflict)
	}
	if int(r.PieceCount) != len(s.pieces) {
		return fmt.Errorf("%d pieces, and %d have landed: %w", r.PieceCount, len(s.pieces), ErrConflict)
	}
	s.result = &r
	s.changes.result = s.changes.enabled
	if s.factsKnown && s.facts.Length < 0 {
		s.facts.Length = r.Length
		s.changes.facts = s.changes.enabled
	}
	return nil
}

// Result gives the result, if the task is whole.
func (s *Swarm) Result() (Result, bool) {
	if s.result == nil {
		return Result{}, false
	}
	return *s.result, true
}

// WrappedLength is the number of bytes of all wrapped pieces of a whole task.
func (r Result) WrappedLength() int64 { return r.Length + int64(r.PieceCount)*piece.WrapLength }

// Finished tells whether a peer has every piece of a whole task.
func (s *Swarm) Finished(peerID string) bool {
	p := s.peers[peerID]
	return p != nil && s.result != nil && p.have.Count() == uint(s.result.PieceCount)
}

// PeerIDs are the peers, those that left included.
func (s *Swarm) PeerIDs() []string { return slices.Collect(maps.Keys(s.peers)) }

// Unfinished is the number of peers that are alive and lack pieces.
func (s *Swarm) Unfinished() int {
	n := 0
	for id, p := range s.peers {
		if !p.left && !s.Finished(id) {
			n++
		}
	}
	return n
}

// Peers is the number of peers, those that left included.
func (s *Swarm) Peers() int { return len(s.peers) }

// checkPiece tells whether the task has the piece, in that size, and it has landed.
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

// pieceLimit is how many pieces the task can have, as far as is known.
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

// AddPeer takes a peer in, or back with what it has.
func (s *Swarm) AddPeer(info PeerInfo, now time.Time) {
	if p := s.peers[info.ID]; p != nil {
		s.changes.addPeer(info.ID)
		p.PeerInfo, p.lastSeen, p.left = info, now, false
		return
	}
	s.changes.addNewPeer(info.ID)
	s.peers[info.ID] = &Peer{
		PeerInfo: info, lastSeen: now,
		have: &bitset.BitSet{}, serves: &bitset.BitSet{},
		writing: make(map[int32]time.Time), running: make(map[int32]*transfer), avoids: make(map[string]time.Time),
		copyFailures: make(map[string]copyFailures),
	}
}
