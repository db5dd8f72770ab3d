package fetch

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"hash"
	"sync"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// hasher computes the MD5 of the whole content, whose pieces may arrive in any
// order or be here already. It takes a piece from memory when it is the next
// one just then, and else reads it back from the disk, so that nothing waits
// in memory for a piece before it.
type hasher struct {
	sum  hash.Hash // of the goroutine in run
	wake chan struct{}

	mu      sync.Mutex
	next    int32     // the piece that is to be hashed; guarded by mu
	tail    int32     // the first piece that is neither being hashed nor offered; guarded by mu
	offered []*buffer // next and those behind it, up to tail; guarded by mu
	count   int32     // of all pieces, -1 while it is not known; guarded by mu
	closed  bool      // run has ended: nothing is taken any more; guarded by mu
}

func newHasher() *hasher {
	return &hasher{sum: md5.New(), wake: make(chan struct{}, 1), count: -1}
}

// offer gives a piece from memory, and tells whether it was taken: then it is
// released when it is hashed.
func (h *hasher) offer(b *buffer) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed || b.num != h.tail {
		return false
	}
	h.offered = append(h.offered, b)
	h.tail++
	h.signal()
	return true
}

// finish tells how many pieces there are.
func (h *hasher) finish(count int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count = count
	h.signal()
}

// signal makes run look again.
func (h *hasher) signal() {
	select {
	case h.wake <- struct{}{}:
	default: // it is going to
	}
}

// step is what run is to do next.
type step int

const (
	stepWait step = iota
	stepMemory
	stepDisk
	stepEnd
)

func (h *hasher) step(a *assembly) (step, *buffer, task.Piece) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.count >= 0 && h.next >= h.count {
		return stepEnd, nil, task.Piece{}
	}
	if len(h.offered) > 0 {
		b := h.offered[0]
		h.offered = h.offered[1:]
		return stepMemory, b, task.Piece{}
	}
	if p, ok := a.has(h.next); ok {
		h.tail = h.next + 1
		return stepDisk, nil, p
	}
	return stepWait, nil, task.Piece{}
}

func (h *hasher) advance() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	h.tail = max(h.tail, h.next)
}

// run hashes until all pieces are, and releases what it was offered. Errors are
// those of the disk, or the cause that ctx ended with.
func (h *hasher) run(ctx context.Context, a *assembly) error {
	defer h.close(a)
	for {
		what, b, p := h.step(a)
		switch what {
		case stepEnd:
			return nil
		case stepMemory:
			h.sum.Write(b.content())
			a.release(b)
			h.advance()
		case stepDisk:
			if err := h.readBack(a, p); err != nil {
				return err
			}
			h.advance()
		case stepWait:
			select {
			case <-h.wake:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		if what != stepWait && ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

func (h *hasher) readBack(a *assembly, p task.Piece) error {
	b := a.buffers.get(a.facts.PieceSize, int64(p.Length))
	defer a.buffers.put(b)
	b.data = b.data[:p.Length]
	if err := a.content.Read(p.Num, b.data); err != nil {
		b.pinned.Store(store.Hangs(err))
		return err
	}
	h.sum.Write(b.data[piece.HeadLength : len(b.data)-1])
	return nil
}

func (h *hasher) close(a *assembly) {
	h.mu.Lock()
	h.closed = true
	remaining := h.offered
	h.offered = nil
	h.mu.Unlock()
	for _, b := range remaining {
		a.release(b)
	}
}

// md5 is the MD5 of the whole; run must have ended without an error.
func (h *hasher) md5() string { return hex.EncodeToString(h.sum.Sum(nil)) }
