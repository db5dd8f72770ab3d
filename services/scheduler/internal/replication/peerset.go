package replication

import (
	"slices"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// peerSet holds the peers of a replica. The size of an update, and the work to apply
// it, do not depend on how many pieces a peer has: changed words of its bit sets are
// replaced in place.
type peerSet struct {
	byID map[string]replicaPeer
	// snapshots counts the calls of snapshot. A caller may read the bit sets that it
	// has received at any time, so they are copied before the next change.
	snapshots int
}

// replicaPeer holds a peer and the number of snapshots that were taken before its bit
// sets were last copied.
type replicaPeer struct {
	swarm.PeerUpdate
	snapshots int
}

// apply merges an update of a peer into the peer's state.
func (p *peerSet) apply(update swarm.PeerUpdate) {
	old, partial := p.byID[update.ID], update.Partial
	words := update.Words
	update.Partial, update.Words = false, nil
	if partial {
		update.Have, update.Serves, update.Writing = old.Have, old.Serves, old.Writing
		if old.snapshots != p.snapshots {
			update.Have, update.Serves, update.Writing = slices.Clone(old.Have), slices.Clone(old.Serves), slices.Clone(old.Writing)
		}
	}
	for _, w := range words {
		if w.Index >= 0 && w.Index < swarm.MaxWords {
			update.Have = withWord(update.Have, int(w.Index), w.Have)
			update.Serves = withWord(update.Serves, int(w.Index), w.Serves)
			update.Writing = withWord(update.Writing, int(w.Index), w.Writing)
		}
	}
	p.byID[update.ID] = replicaPeer{update, p.snapshots}
}

// withWord sets one word of a bit set and returns the set, which grows if necessary.
func withWord(set []uint64, i int, word uint64) []uint64 {
	if i >= len(set) {
		if word == 0 {
			return set
		}
		set = append(set, make([]uint64, i+1-len(set))...)
	}
	set[i] = word
	return set
}

// snapshot returns the peers. The caller must not modify them.
func (p *peerSet) snapshot() []swarm.PeerUpdate {
	p.snapshots++
	list := make([]swarm.PeerUpdate, 0, len(p.byID))
	for _, peer := range p.byID {
		list = append(list, peer.PeerUpdate)
	}
	return list
}
