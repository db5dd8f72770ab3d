package keeper

import (
	"sync"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// mostNotes is how many tasks may wait to be heard of. Run hears them at once;
// only an engine that loses everything in one moment could write more.
const mostNotes = 100_000

// notes is what others have to tell the keeper without waiting for it.
type notes struct {
	mu    sync.Mutex
	lost  map[task.ID]struct{} // guarded by mu
	stale map[task.ID]struct{} // guarded by mu
	wake  chan struct{}
}

func newNotes() *notes {
	return &notes{lost: make(map[task.ID]struct{}), stale: make(map[task.ID]struct{}), wake: make(chan struct{}, 1)}
}

func (n *notes) noteLost(id task.ID) bool { return n.note(n.lost, id) }

func (n *notes) noteStale(id task.ID) bool { return n.note(n.stale, id) }

// note is false when there is no room.
func (n *notes) note(set map[task.ID]struct{}, id task.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if _, known := set[id]; !known && len(set) >= mostNotes {
		return false
	}
	set[id] = struct{}{}
	wake(n.wake)
	return true
}

func (n *notes) take() (lost, stale []task.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for id := range n.lost {
		lost = append(lost, id)
	}
	for id := range n.stale {
		stale = append(stale, id)
	}
	clear(n.lost)
	clear(n.stale)
	return lost, stale
}

// wake tells a goroutine that listens now or later, once however often.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has not heard the last one yet
	}
}
