package swarm

import "github.com/bits-and-blooms/bitset"

// changeLog records what has changed since the last Update. It is disabled, and
// records nothing, until Changes is called for the first time.
type changeLog struct {
	enabled       bool
	full          bool // the next Update must be a full one
	facts, result bool
	pieces        map[int32]struct{}
	peers         map[string]*peerChange // removed peers included
}

// peerChange records what has changed in a peer.
type peerChange struct {
	// unsent is set if no update has contained the peer since it was added.
	unsent bool
	// words are the indices of the changed words of its bit sets. Recording words
	// keeps the size of an update independent of how many pieces the peer has.
	words bitset.BitSet
}

// reset enables the log and removes all entries.
func (l *changeLog) reset() {
	*l = changeLog{enabled: true, pieces: make(map[int32]struct{}), peers: make(map[string]*peerChange)}
}

func (l *changeLog) addPiece(num int32) {
	if l.enabled {
		l.pieces[num] = struct{}{}
	}
}

// addNewPeer records that a peer was added.
func (l *changeLog) addNewPeer(id string) {
	if l.enabled {
		l.peers[id] = &peerChange{unsent: true}
	}
}

// addPeer records that a peer was removed or that something other than its bit
// sets has changed.
func (l *changeLog) addPeer(id string) {
	if l.enabled && l.peers[id] == nil {
		l.peers[id] = &peerChange{}
	}
}

// addPeerPiece records that a peer's state of a piece has changed.
func (l *changeLog) addPeerPiece(id string, num int32) {
	if l.enabled {
		l.addPeer(id)
		l.peers[id].words.Set(uint(num) / wordBits)
	}
}
