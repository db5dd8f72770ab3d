package reconciler

import (
	"sync"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// maxInbox is how many tasks may wait to be heard of. Run hears them at once;
// only an engine that loses everything in one moment could write more.
const maxInbox = 100_000

// inbox is what others have to tell the reconciler without waiting for it.
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

// add is false when there is no room.
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

// signal tells a goroutine that listens now or later, once however often.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has not heard the last one yet
	}
}
