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

// hasher computes the MD5 of the whole content. The pieces may arrive in any order, or
// may be on disk already. If a piece is offered when it is the next one in order, the
// hasher uses it from memory. Otherwise it reads the piece back from disk later, so that
// no piece stays in memory until an earlier one arrives.
type hasher struct {
	sum  hash.Hash // used by the goroutine of run only
	wake chan struct{}

	mu      sync.Mutex
	next    int32     // number of the next piece to hash; guarded by mu
	tail    int32     // number of the first piece that is neither being hashed nor offered; guarded by mu
	offered []*buffer // pieces to hash from memory, in order, the last one before tail; guarded by mu
	count   int32     // number of all pieces, -1 while it is unknown; guarded by mu
	closed  bool      // run has ended, and offers are declined; guarded by mu
}

func newHasher() *hasher {
	return &hasher{sum: md5.New(), wake: make(chan struct{}, 1), count: -1}
}

// offer passes a piece in memory to the hasher. It returns true if the hasher accepts the
// piece. Then the hasher releases the buffer when it is hashed.
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

// finish sets the number of pieces, with which run returns.
func (h *hasher) finish(count int32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.count = count
	h.signal()
}

// signal wakes run up.
func (h *hasher) signal() {
	select {
	case h.wake <- struct{}{}:
	default: // a signal is pending already
	}
}

// step is the kind of the next step of run: wait, hash a piece from memory or from disk,
// or end.
type step int

const (
	stepWait step = iota
	stepMemory
	stepDisk
	stepEnd
)

// step returns the next step and its piece.
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

// run hashes pieces until all are hashed. It releases all buffers that it has accepted. It
// returns the errors of the disk, or the cause of the end of ctx.
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

// readBack hashes a piece from disk.
func (h *hasher) readBack(a *assembly, p task.Piece) error {
	b := a.buffers.get(a.facts.PieceSize, int64(p.Length))
	defer a.buffers.put(b)
	b.data = b.data[:p.Length]
	if err := a.content.Read(p.Num, b.data); err != nil {
		b.pinned.Store(store.TimedOut(err))
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

// md5 returns the hex MD5 of the whole content. run must have returned nil before.
func (h *hasher) md5() string { return hex.EncodeToString(h.sum.Sum(nil)) }
