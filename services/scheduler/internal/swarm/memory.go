package swarm

import (
	"time"

	"github.com/bits-and-blooms/bitset"
)

// Memory is what outlives a swarm's scheduler, or what changed of that: all
// but what ends by itself, such as slots, and opinions of who failed whom.
type Memory struct {
	// Anew says that this is all there is, not what changed.
	Anew bool
	// Facts and Result are nil when they are not known, or did not change.
	Facts  *Facts
	Result *Result
	Pieces []PieceMemory
	Peers  []PeerMemory
	// Forgotten are the ids of peers that are no more.
	Forgotten []string
	// Outdated are the ids of peers that have pieces of another version.
	Outdated []string
}

// PieceMemory is a piece that landed.
type PieceMemory struct {
	Num    int32
	MD5    string
	Length int32
}

// PeerMemory is all that is kept of one peer, or what changed of that.
type PeerMemory struct {
	PeerInfo
	// Have, Serves and Writing, what it will serve in a moment, are bit sets:
	// bit n of the whole is piece n, the lowest bit of each word first. The
	// words must not be changed.
	Have, Serves, Writing []uint64
	// Partial says that the sets are not told, but Words: those words of them that
	// changed.
	Partial bool
	Words   []WordMemory
	// Left says that the peer serves no more and asks for nothing more.
	Left bool
	// Migrant says that it has pieces that nobody was told of.
	Migrant bool
	// Newcomer says that nothing was offered to it and nothing heard of it yet:
	// it may still turn out to be a migrant.
	Newcomer bool
}

// WordMemory is a word of each of a peer's bit sets, as it is now: told twice it
// is the same as once.
type WordMemory struct {
	// Index is its place in the sets.
	Index                 int32
	Have, Serves, Writing uint64
}

const (
	wordBits = 64
	// WordsAtAll bounds the words of a bit set.
	WordsAtAll = piecesAtAll / wordBits
)

// Changed tells whether there is anything for Changes to tell.
func (s *Swarm) Changed() bool {
	l := &s.ledger
	return l.on && (l.anew || l.facts || l.result || len(l.pieces) > 0 || len(l.peers) > 0)
}

// Changes tells what changed since it was asked last, or all there is. From
// the first time on changes are kept for it.
func (s *Swarm) Changes(anew bool) Memory {
	l := s.ledger
	s.ledger.open()
	if anew || !l.on || l.anew {
		return s.memory()
	}
	var m Memory
	if l.facts && s.known {
		m.Facts = s.factsNow()
	}
	if l.result {
		m.Result = s.result
	}
	for num := range l.pieces {
		m.Pieces = append(m.Pieces, s.pieceMemory(num))
	}
	for id, t := range l.peers {
		if p := s.peers[id]; p != nil {
			m.Peers = append(m.Peers, p.changes(t))
		} else {
			m.Forgotten = append(m.Forgotten, id)
		}
	}
	return m
}

// memory is all there is.
func (s *Swarm) memory() Memory {
	m := Memory{Anew: true, Result: s.result}
	if s.known {
		m.Facts = s.factsNow()
	}
	for i, ch := range s.chunks {
		if ch.md5 != "" {
			m.Pieces = append(m.Pieces, s.pieceMemory(int32(i)))
		}
	}
	for _, p := range s.peers {
		m.Peers = append(m.Peers, p.memory())
	}
	return m
}

func (s *Swarm) factsNow() *Facts {
	f := s.facts
	return &f
}

func (s *Swarm) pieceMemory(num int32) PieceMemory {
	ch := s.chunks[num]
	return PieceMemory{Num: num, MD5: ch.md5, Length: ch.length}
}

// memory is all there is of a peer.
func (p *Peer) memory() PeerMemory {
	writing := &bitset.BitSet{}
	for num := range p.writing {
		writing.Set(uint(num))
	}
	m := p.state()
	m.Have, m.Serves, m.Writing = p.have.Clone().Words(), p.serves.Clone().Words(), writing.Words()
	return m
}

// state is what is kept of a peer beside its bit sets.
func (p *Peer) state() PeerMemory {
	return PeerMemory{PeerInfo: p.PeerInfo, Left: p.gone, Migrant: p.migrant, Newcomer: !p.known}
}

// changes is what changed of a peer, or all if that is no more.
func (p *Peer) changes(t *touched) PeerMemory {
	if t.unheard || 2*int(t.words.Count()) >= len(p.have.Words()) {
		return p.memory()
	}
	m := p.state()
	m.Partial = true
	for i := range t.words.EachSet() {
		w := WordMemory{Index: int32(i), Have: word(p.have, i), Serves: word(p.serves, i)}
		for num := range p.writing { // few
			if uint(num)/wordBits == i {
				w.Writing |= 1 << (uint(num) % wordBits)
			}
		}
		m.Words = append(m.Words, w)
	}
	return m
}

func word(set *bitset.BitSet, i uint) uint64 {
	if words := set.Words(); i < uint(len(words)) {
		return words[i]
	}
	return 0
}

// Restore makes an empty swarm know all that another remembered. Numbers that no
// task can have are passed over.
func (s *Swarm) Restore(m Memory, now time.Time) {
	if m.Facts != nil {
		s.facts, s.known = *m.Facts, true
	}
	for _, p := range m.Pieces {
		if p.Num >= 0 && int(p.Num) < s.mostAtAll() && p.MD5 != "" {
			ch := s.chunkAt(p.Num)
			ch.md5, ch.length = p.MD5, p.Length
		}
	}
	// Whether anything was offered is not told: it may have been.
	s.given = len(m.Peers) > 0 && len(m.Pieces) > 0
	for _, p := range m.Peers {
		s.restorePeer(p, now)
	}
	if m.Result != nil && int(m.Result.PieceCount) == len(s.chunks) {
		r := *m.Result
		s.result = &r
	}
}

func (s *Swarm) restorePeer(m PeerMemory, now time.Time) {
	s.AddPeer(m.PeerInfo, now)
	p := s.peers[m.ID]
	p.gone, p.known, p.migrant = m.Left, !m.Newcomer, m.Migrant
	most := uint(s.mostAtAll())
	serves, writing := bitset.From(m.Serves), bitset.From(m.Writing)
	for num := range bitset.From(m.Have).EachSet() {
		if num >= most {
			break
		}
		s.given = true
		p.have.Set(num)
		switch {
		case m.Left:
		case serves.Test(num):
			s.serve(p, int32(num))
		case writing.Test(num):
			p.writing[int32(num)] = now
		}
	}
}

// mostAtAll is how many pieces a swarm that knows no copy may be told of.
func (s *Swarm) mostAtAll() int {
	if s.known && s.facts.Length >= 0 {
		return s.most()
	}
	return piecesAtAll
}

// piecesAtAll bounds the pieces of a file whose length is not known: 4 TiB in
// pieces of 4 MiB.
const piecesAtAll = 1 << 20

func (s *Swarm) chunkAt(num int32) *chunk {
	for int(num) >= len(s.chunks) {
		s.chunks = append(s.chunks, &chunk{flights: make(map[*transfer]struct{})})
	}
	return s.chunks[num]
}

// serve says that others may take a piece from a peer.
func (s *Swarm) serve(p *Peer, num int32) {
	delete(p.writing, num)
	p.serves.Set(uint(num))
	ch := s.chunkAt(num)
	ch.holders = append(ch.holders, p)
}
