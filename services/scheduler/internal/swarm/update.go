package swarm

import (
	"time"

	"github.com/bits-and-blooms/bitset"
)

// Update is what outlives a swarm's scheduler, or what changed of that: all
// but what ends by itself, such as slots, and opinions of who failed whom.
type Update struct {
	// Full says that this is all there is, not what changed.
	Full bool
	// Facts and Result are nil when they are not known, or did not change.
	Facts  *Facts
	Result *Result
	Pieces []PieceUpdate
	Peers  []PeerUpdate
	// Removed are the ids of peers that are no more.
	Removed []string
	// Outdated are the ids of peers that have pieces of another version.
	Outdated []string
}

// PieceUpdate is a piece that landed.
type PieceUpdate struct {
	Num    int32
	MD5    string
	Length int32
}

// PeerUpdate is all that is kept of one peer, or what changed of that.
type PeerUpdate struct {
	PeerInfo
	// Have, Serves and Writing, what it will serve in a moment, are bit sets:
	// bit n of the whole is piece n, the lowest bit of each word first. The
	// words must not be changed.
	Have, Serves, Writing []uint64
	// Partial says that the sets are not told, but Words: those words of them that
	// changed.
	Partial bool
	Words   []WordUpdate
	// Left says that the peer serves no more and asks for nothing more.
	Left bool
	// Migrant says that it has pieces that nobody was told of.
	Migrant bool
	// Newcomer says that nothing was offered to it and nothing heard of it yet:
	// it may still turn out to be a migrant.
	Newcomer bool
}

// WordUpdate is a word of each of a peer's bit sets, as it is now: told twice it
// is the same as once.
type WordUpdate struct {
	// Index is its place in the sets.
	Index                 int32
	Have, Serves, Writing uint64
}

const (
	wordBits = 64
	// MaxWords bounds the words of a bit set.
	MaxWords = maxPieces / wordBits
)

// Changed tells whether there is anything for Changes to tell.
func (s *Swarm) Changed() bool {
	log := &s.changes
	return log.enabled && (log.full || log.facts || log.result || len(log.pieces) > 0 || len(log.peers) > 0)
}

// Changes tells what changed since it was asked last, or all there is. From
// the first time on changes are kept for it.
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
	for id, t := range log.peers {
		if p := s.peers[id]; p != nil {
			u.Peers = append(u.Peers, p.partialUpdate(t))
		} else {
			u.Removed = append(u.Removed, id)
		}
	}
	return u
}

// fullUpdate is all there is.
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

// fullUpdate is all there is of a peer.
func (p *Peer) fullUpdate() PeerUpdate {
	writing := &bitset.BitSet{}
	for num := range p.writing {
		writing.Set(uint(num))
	}
	u := p.baseUpdate()
	u.Have, u.Serves, u.Writing = p.have.Clone().Words(), p.serves.Clone().Words(), writing.Words()
	return u
}

// baseUpdate is what is kept of a peer beside its bit sets.
func (p *Peer) baseUpdate() PeerUpdate {
	return PeerUpdate{PeerInfo: p.PeerInfo, Left: p.left, Migrant: p.migrant, Newcomer: !p.originKnown}
}

// partialUpdate is what changed of a peer, or all if that is no more.
func (p *Peer) partialUpdate(t *peerChange) PeerUpdate {
	if t.unsent || 2*int(t.words.Count()) >= len(p.have.Words()) {
		return p.fullUpdate()
	}
	u := p.baseUpdate()
	u.Partial = true
	for i := range t.words.EachSet() {
		w := WordUpdate{Index: int32(i), Have: wordAt(p.have, i), Serves: wordAt(p.serves, i)}
		for num := range p.writing { // few
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

// Restore makes an empty swarm know all that another remembered. Numbers that no
// task can have are passed over.
func (s *Swarm) Restore(u Update, now time.Time) {
	if u.Facts != nil {
		s.facts, s.factsKnown = *u.Facts, true
	}
	for _, p := range u.Pieces {
		if p.Num >= 0 && int(p.Num) < s.restoreLimit() && p.MD5 != "" {
			state := s.pieceAt(p.Num)
			state.md5, state.length = p.MD5, p.Length
		}
	}
	// Whether anything was offered is not told: it may have been.
	s.offered = len(u.Peers) > 0 && len(u.Pieces) > 0
	for _, p := range u.Peers {
		s.restorePeer(p, now)
	}
	if u.Result != nil && int(u.Result.PieceCount) == len(s.pieces) {
		r := *u.Result
		s.result = &r
	}
}

func (s *Swarm) restorePeer(u PeerUpdate, now time.Time) {
	s.AddPeer(u.PeerInfo, now)
	p := s.peers[u.ID]
	p.left, p.originKnown, p.migrant = u.Left, !u.Newcomer, u.Migrant
	limit := uint(s.restoreLimit())
	serves, writing := bitset.From(u.Serves), bitset.From(u.Writing)
	for num := range bitset.From(u.Have).EachSet() {
		if num >= limit {
			break
		}
		s.offered = true
		p.have.Set(num)
		switch {
		case u.Left:
		case serves.Test(num):
			s.serve(p, int32(num))
		case writing.Test(num):
			p.writing[int32(num)] = now
		}
	}
}

// restoreLimit is how many pieces a swarm that knows no copy may be told of.
func (s *Swarm) restoreLimit() int {
	if s.factsKnown && s.facts.Length >= 0 {
		return s.pieceLimit()
	}
	return maxPieces
}

// maxPieces bounds the pieces of a file whose length is not known: 4 TiB in
// pieces of 4 MiB.
const maxPieces = 1 << 20

func (s *Swarm) pieceAt(num int32) *pieceState {
	for int(num) >= len(s.pieces) {
		s.pieces = append(s.pieces, &pieceState{transfers: make(map[*transfer]struct{})})
	}
	return s.pieces[num]
}

// serve says that others may take a piece from a peer.
func (s *Swarm) serve(p *Peer, num int32) {
	delete(p.writing, num)
	p.serves.Set(uint(num))
	state := s.pieceAt(num)
	state.holders = append(state.holders, p)
}
