package swarm

import "github.com/bits-and-blooms/bitset"

// ledger is what changed since it was last told. While nobody wants to be told
// it is off, and nothing is written.
type ledger struct {
	on            bool
	anew          bool
	facts, result bool
	pieces        map[int32]struct{}
	peers         map[string]*touched // those that are no more included
}

// touched is what changed of a peer.
type touched struct {
	// unheard says that nothing was told of it yet, at least since it was forgotten.
	unheard bool
	// words are those of its bit sets that changed: what is kept for a peer, and
	// told of it, must not grow with what it has.
	words bitset.BitSet
}

// open begins an empty page.
func (l *ledger) open() {
	*l = ledger{on: true, pieces: make(map[int32]struct{}), peers: make(map[string]*touched)}
}

func (l *ledger) piece(num int32) {
	if l.on {
		l.pieces[num] = struct{}{}
	}
}

// newPeer notes a peer that was not there before.
func (l *ledger) newPeer(id string) {
	if l.on {
		l.peers[id] = &touched{unheard: true}
	}
}

// peer notes that something changed of a peer beside its bit sets, or that it is no more.
func (l *ledger) peer(id string) {
	if l.on && l.peers[id] == nil {
		l.peers[id] = &touched{}
	}
}

// pieceOf notes that it changed what a peer has of a piece.
func (l *ledger) pieceOf(id string, num int32) {
	if l.on {
		l.peer(id)
		l.peers[id].words.Set(uint(num) / wordBits)
	}
}
