package peer

import (
	"context"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

// item is the outcome of a piece, which a pull reports.
type item struct {
	piece          wire.Piece // none for the first pull
	from           string     // cid of its source
	result, status int
	repeated       bool // the peer had the piece when it was offered
}

// queue holds the items that no pull has reported yet.
type queue struct {
	mu    sync.Mutex // guards items
	items []item
	more  chan struct{}
}

func newQueue() queue { return queue{more: make(chan struct{}, 1)} }

func (q *queue) put(it item) {
	q.mu.Lock()
	q.items = append(q.items, it)
	q.mu.Unlock()
	select {
	case q.more <- struct{}{}:
	default:
	}
}

func (q *queue) size() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

func (q *queue) take() (item, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return item{}, false
	}
	it := q.items[0]
	q.items = append(q.items[:0], q.items[1:]...) // there are few
	return it, true
}

// poll waits for an item. It returns false if none came in time or the context
// ended.
func (q *queue) poll(ctx context.Context, patience time.Duration) (item, bool) {
	if it, ok := q.take(); ok {
		return it, true
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case <-q.more:
			if it, ok := q.take(); ok {
				return it, true
			}
		case <-timer.C:
			return item{}, false
		case <-ctx.Done():
			return item{}, false
		}
	}
}
