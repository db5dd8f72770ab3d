package replication

import (
	"slices"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// peerSet is those of a page. What is told of one is its size, not that of what
// the peer has, and so is the work for it: words are changed in place.
type peerSet struct {
	byID map[string]replicaPeer
	// generation counts the times that they were given away. Whoever got them reads the
	// sets for as long as he likes, so these are copied before the next change.
	generation int
}

// replicaPeer is a peer, and the lent of when nobody else had its sets.
type replicaPeer struct {
	swarm.PeerUpdate
	generation int
}

// apply merges what was told of a peer into what is known of it.
func (p *peerSet) apply(update swarm.PeerUpdate) {
	old, partial := p.byID[update.ID], update.Partial
	words := update.Words
	update.Partial, update.Words = false, nil
	if partial {
		update.Have, update.Serves, update.Writing = old.Have, old.Serves, old.Writing
		if old.generation != p.generation {
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
	p.byID[update.ID] = replicaPeer{update, p.generation}
}

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

// snapshot gives them away, to be read.
func (p *peerSet) snapshot() []swarm.PeerUpdate {
	p.generation++
	list := make([]swarm.PeerUpdate, 0, len(p.byID))
	for _, k := range p.byID {
		list = append(list, k.PeerUpdate)
	}
	return list
}
