package swarm

import "github.com/bits-and-blooms/bitset"

// changeLog is what changed since it was last told. While nobody wants to be told
// it is off, and nothing is written.
type changeLog struct {
	enabled       bool
	full          bool
	facts, result bool
	pieces        map[int32]struct{}
	peers         map[string]*peerChange // those that are no more included
}

// peerChange is what changed of a peer.
type peerChange struct {
	// unsent says that nothing was told of it yet, at least since it was forgotten.
	unsent bool
	// words are those of its bit sets that changed: what is kept for a peer, and
	// told of it, must not grow with what it has.
	words bitset.BitSet
}

// reset begins an empty page.
func (l *changeLog) reset() {
	*l = changeLog{enabled: true, pieces: make(map[int32]struct{}), peers: make(map[string]*peerChange)}
}

func (l *changeLog) addPiece(num int32) {
	if l.enabled {
		l.pieces[num] = struct{}{}
	}
}

// addNewPeer notes a peer that was not there before.
func (l *changeLog) addNewPeer(id string) {
	if l.enabled {
		l.peers[id] = &peerChange{unsent: true}
	}
}

// addPeer notes that something changed of a peer beside its bit sets, or that it is no more.
func (l *changeLog) addPeer(id string) {
	if l.enabled && l.peers[id] == nil {
		l.peers[id] = &peerChange{}
	}
}

// addPeerPiece notes that it changed what a peer has of a piece.
func (l *changeLog) addPeerPiece(id string, num int32) {
	if l.enabled {
		l.addPeer(id)
		l.peers[id].words.Set(uint(num) / wordBits)
	}
}
