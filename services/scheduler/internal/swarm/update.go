package swarm

import (
	"time"

	"github.com/bits-and-blooms/bitset"
)

// Update holds the state that is replicated to a task's standby scheduler: the
// complete state, or what has changed since the previous Update. State that
// expires by itself, such as transfers and failure counts, is not replicated.
type Update struct {
	// Full is set if the update holds the complete state.
	Full bool
	// Facts and Result are nil if they are unknown or have not changed.
	Facts  *Facts
	Result *Result
	Pieces []PieceUpdate
	Peers  []PeerUpdate
	// Removed are the ids of peers that have been removed.
	Removed []string
	// Outdated are the ids of peers that have pieces of another version of the
	// source.
	Outdated []string
}

// PieceUpdate holds a piece that has landed on a CDN copy.
type PieceUpdate struct {
	Num    int32
	MD5    string
	Length int32
}

// PeerUpdate holds the complete state of one peer, or what has changed in it.
type PeerUpdate struct {
	PeerInfo
	// Have, Serves and Writing are bit sets of the pieces that the peer has,
	// serves, and is writing to its disk. Piece n is bit n%64 of word n/64,
	// counted from the least significant bit. The words must not be modified.
	Have, Serves, Writing []uint64
	// Partial is set if Words holds the changed words of the bit sets, in place
	// of the sets themselves.
	Partial bool
	Words   []WordUpdate
	// Left is set if the peer has left.
	Left bool
	// Migrant is set if the peer has pieces that were never reported.
	Migrant bool
	// Newcomer is set if the peer has received no offer and sent no report yet.
	// It may turn out to be a migrant.
	Newcomer bool
}

// WordUpdate holds the current value of one word of each of a peer's bit sets.
// Applying it is idempotent.
type WordUpdate struct {
	// Index is the index of the word.
	Index                 int32
	Have, Serves, Writing uint64
}

const (
	wordBits = 64
	// MaxWords is the maximum number of words in a bit set.
	MaxWords = maxPieces / wordBits
)

// Changed reports whether there are changes for Changes to return.
// It takes constant time.
func (s *Swarm) Changed() bool {
	log := &s.changes
	return log.enabled && (log.full || log.facts || log.result || len(log.pieces) > 0 || len(log.peers) > 0)
}

// Changes returns what has changed since the previous call, or the complete
// state if full is set. The first call returns the complete state and starts
// the recording of changes.
// It takes O(changes), and O(peers · pieces / 64) for the complete state.
func (s *Swarm) Changes(full bool) Update {
	log := s.changes
	s.changes.reset()
	if full || !log.enabled || log.full {
		return s.fullUpdate()
	}
	var u Update
	if log.facts && s.factsKnown {
		u.Facts = s.factsCopy()
	}
	if log.result {
		u.Result = s.result
	}
	for num := range log.pieces {
		u.Pieces = append(u.Pieces, s.pieceUpdate(num))
	}
	for id, change := range log.peers {
		if p := s.peers[id]; p != nil {
			u.Peers = append(u.Peers, p.partialUpdate(change))
		} else {
			u.Removed = append(u.Removed, id)
		}
	}
	return u
}

// fullUpdate returns the complete state.
func (s *Swarm) fullUpdate() Update {
	u := Update{Full: true, Result: s.result}
	if s.factsKnown {
		u.Facts = s.factsCopy()
	}
	for i, state := range s.pieces {
		if state.md5 != "" {
			u.Pieces = append(u.Pieces, s.pieceUpdate(int32(i)))
		}
	}
	for _, p := range s.peers {
		u.Peers = append(u.Peers, p.fullUpdate())
	}
	return u
}

func (s *Swarm) factsCopy() *Facts {
	f := s.facts
	return &f
}

func (s *Swarm) pieceUpdate(num int32) PieceUpdate {
	state := s.pieces[num]
	return PieceUpdate{Num: num, MD5: state.md5, Length: state.length}
}

// fullUpdate returns the complete state of a peer.
func (p *Peer) fullUpdate() PeerUpdate {
	writing := &bitset.BitSet{}
	for num := range p.writing {
		writing.Set(uint(num))
	}
	u := p.baseUpdate()
	u.Have, u.Serves, u.Writing = p.have.Clone().Words(), p.serves.Clone().Words(), writing.Words()
	return u
}

// baseUpdate returns the state of a peer without its bit sets.
func (p *Peer) baseUpdate() PeerUpdate {
	return PeerUpdate{PeerInfo: p.PeerInfo, Left: p.left, Migrant: p.origin == migrant, Newcomer: p.origin == newcomer}
}

// partialUpdate returns what has changed in a peer, or its complete state if
// that is not larger.
func (p *Peer) partialUpdate(change *peerChange) PeerUpdate {
	if change.unsent || 2*int(change.words.Count()) >= len(p.have.Words()) {
		return p.fullUpdate()
	}
	u := p.baseUpdate()
	u.Partial = true
	for i := range change.words.EachSet() {
		w := WordUpdate{Index: int32(i), Have: wordAt(p.have, i), Serves: wordAt(p.serves, i)}
		for num := range p.writing { // it is small
			if uint(num)/wordBits == i {
				w.Writing |= 1 << (uint(num) % wordBits)
			}
		}
		u.Words = append(u.Words, w)
	}
	return u
}

func wordAt(set *bitset.BitSet, i uint) uint64 {
	if words := set.Words(); i < uint(len(words)) {
		return words[i]
	}
	return 0
}

// Restore initializes an empty swarm from the replicated state of another one.
// It skips piece numbers that the task cannot have.
// It takes O(peers · pieces).
func (s *Swarm) Restore(u Update, now time.Time) {
	if u.Facts != nil {
		s.facts, s.factsKnown = *u.Facts, true
	}
	for _, p := range u.Pieces {
		if p.Num >= 0 && int(p.Num) < s.restoreLimit() && p.MD5 != "" {
			state := s.pieceAt(p.Num)
			if state.md5 == "" {
				s.land(p.Num)
			}
			state.md5, state.length = p.MD5, p.Length
		}
	}
	// The update does not say whether a piece was offered: assume that one was.
	s.offered = len(u.Peers) > 0 && len(u.Pieces) > 0
	for _, p := range u.Peers {
		s.restorePeer(p, now)
	}
	if u.Result != nil && int(u.Result.PieceCount) == len(s.pieces) {
		r := *u.Result
		s.result = &r
		s.recountAll()
	}
}

func (s *Swarm) restorePeer(u PeerUpdate, now time.Time) {
	s.AddPeer(u.PeerInfo, now)
	p := s.peers[u.ID]
	p.left, p.origin = u.Left, originOf(u)
	s.recount(p, now)
	limit := uint(s.restoreLimit())
	serves, writing := bitset.From(u.Serves), bitset.From(u.Writing)
	for num := range bitset.From(u.Have).EachSet() {
		if num >= limit {
			break
		}
		s.offered = true
		s.gain(p, int32(num))
		switch {
		case u.Left:
		case serves.Test(num):
			s.serve(p, int32(num))
		case writing.Test(num):
			s.beginWriting(p, int32(num), now)
		}
	}
}

// restoreLimit returns the maximum number of pieces that Restore accepts.
func (s *Swarm) restoreLimit() int {
	if s.factsKnown && s.facts.Length >= 0 {
		return s.pieceLimit()
	}
	return maxPieces
}

// maxPieces is the maximum number of pieces of a file of unknown length: 4 TiB
// in pieces of 4 MiB.
const maxPieces = 1 << 20

func (s *Swarm) pieceAt(num int32) *pieceState {
	for int(num) >= len(s.pieces) {
		s.pieces = append(s.pieces, &pieceState{})
	}
	return s.pieces[num]
}

// land records that a piece of the task exists.
func (s *Swarm) land(num int32) {
	s.landed++
	s.available.land(num)
}
