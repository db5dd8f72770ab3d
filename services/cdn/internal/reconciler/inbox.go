package reconciler

import (
	"sync"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// maxInbox limits the tasks of one kind in the inbox. Run drains the inbox at once, so
// the limit is reached only if very many copies are lost at the same moment.
const maxInbox = 100_000

// inbox passes tasks from other goroutines to Run without blocking them.
type inbox struct {
	mu    sync.Mutex
	lost  map[task.ID]struct{} // guarded by mu
	stale map[task.ID]struct{} // guarded by mu
	wake  chan struct{}
}

func newInbox() *inbox {
	return &inbox{lost: make(map[task.ID]struct{}), stale: make(map[task.ID]struct{}), wake: make(chan struct{}, 1)}
}

func (in *inbox) addLost(id task.ID) bool { return in.add(in.lost, id) }

func (in *inbox) addStale(id task.ID) bool { return in.add(in.stale, id) }

// add adds a task to one of the sets. It returns false if the set is full.
func (in *inbox) add(set map[task.ID]struct{}, id task.ID) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if _, known := set[id]; !known && len(set) >= maxInbox {
		return false
	}
	set[id] = struct{}{}
	signal(in.wake)
	return true
}

// drain returns and removes all tasks.
func (in *inbox) drain() (lost, stale []task.ID) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for id := range in.lost {
		lost = append(lost, id)
	}
	for id := range in.stale {
		stale = append(stale, id)
	}
	clear(in.lost)
	clear(in.stale)
	return lost, stale
}

// signal sends to a channel of capacity 1 without blocking. Signals that are not
// received yet are merged into one.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // a signal is pending already
	}
}
