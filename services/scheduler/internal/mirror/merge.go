package mirror

import (
	"slices"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// peers are those of a page. What is told of one is its size, not that of what
// the peer has, and so is the work for it: words are changed in place.
type peers struct {
	byID map[string]kept
	// lent counts the times that they were given away. Whoever got them reads the
	// sets for as long as he likes, so these are copied before the next change.
	lent int
}

// kept is a peer, and the lent of when nobody else had its sets.
type kept struct {
	swarm.PeerUpdate
	lent int
}

// take merges what was told of a peer into what is known of it.
func (p *peers) take(told swarm.PeerUpdate) {
	old, partial := p.byID[told.ID], told.Partial
	words := told.Words
	told.Partial, told.Words = false, nil
	if partial {
		told.Have, told.Serves, told.Writing = old.Have, old.Serves, old.Writing
		if old.lent != p.lent {
			told.Have, told.Serves, told.Writing = slices.Clone(old.Have), slices.Clone(old.Serves), slices.Clone(old.Writing)
		}
	}
	for _, w := range words {
		if w.Index >= 0 && w.Index < swarm.MaxWords {
			told.Have = withWord(told.Have, int(w.Index), w.Have)
			told.Serves = withWord(told.Serves, int(w.Index), w.Serves)
			told.Writing = withWord(told.Writing, int(w.Index), w.Writing)
		}
	}
	p.byID[told.ID] = kept{told, p.lent}
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

// lend gives them away, to be read.
func (p *peers) lend() []swarm.PeerUpdate {
	p.lent++
	list := make([]swarm.PeerUpdate, 0, len(p.byID))
	for _, k := range p.byID {
		list = append(list, k.PeerUpdate)
	}
	return list
}
