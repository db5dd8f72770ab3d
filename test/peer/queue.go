package peer

import (
	"bytes"
	"context"
	"sync"
	"time"
)

// item is a piece on its way through the peer, and at last what a pull says.
// The session's lock guards its route (node, taskID, dstCid): the download
// loop rewrites it after a migration, while the report of the same piece may
// be waiting to be sent, and then goes the new way.
type item struct {
	node, taskID, dstCid string

	pieceRange     string
	result, status int
	num            int
	size           int32 // 0 for what is no arrived piece
}

// queue is what the download loop reads: at most one entry a piece is in it at
// a time, so the task's number of pieces is its bound.
type queue struct {
	mu    sync.Mutex // guards items
	items []*item
	more  chan struct{}
}

func newQueue() *queue { return &queue{more: make(chan struct{}, 1)} }

func (q *queue) put(it *item) {
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

func (q *queue) take() *item {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil
	}
	it := q.items[0]
	q.items = q.items[1:]
	return it
}

// poll gives nil when nothing came in time or the context ended.
func (q *queue) poll(ctx context.Context, patience time.Duration) *item {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		if it := q.take(); it != nil {
			return it
		}
		select {
		case <-q.more:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// Buffers lends the memory of pieces that are under way. Many peers may share
// one, so that a crowd in one process holds no more than what is moving.
type Buffers struct{ pool sync.Pool }

func (b *Buffers) get(size int) *bytes.Buffer {
	buffer, ok := b.pool.Get().(*bytes.Buffer)
	if !ok {
		buffer = &bytes.Buffer{}
	}
	buffer.Reset()
	buffer.Grow(size + bytes.MinRead) // what ReadFrom wants free at the end
	return buffer
}

func (b *Buffers) put(buffer *bytes.Buffer) { b.pool.Put(buffer) }
