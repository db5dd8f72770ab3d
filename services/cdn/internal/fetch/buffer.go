package fetch

import (
	"crypto/md5"
	"encoding/hex"
	"sync"
	"sync/atomic"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// buffer holds a piece until it is written to disk.
type buffer struct {
	num  int32
	size int32  // wrapped size of a full piece in bytes
	data []byte // the wrapped piece; before seal, memory for it
	// users is the number of goroutines that still need the piece.
	users atomic.Int32
	// pinned is set if a disk operation that hangs may still access data. Then the memory
	// must not be used again.
	pinned atomic.Bool
}

// content returns the memory for the content, without head and tail.
func (b *buffer) content() []byte { return b.data[piece.HeadLength : len(b.data)-1] }

// seal adds head and tail to the first length bytes of the content.
func (b *buffer) seal(num int32, length int) {
	b.num = num
	b.data = b.data[:length+piece.WrapLength]
	piece.PutHead(b.data, length, b.size)
	b.data[len(b.data)-1] = piece.Tail
}

// piece returns the number, the MD5 and the length of the piece.
func (b *buffer) piece() task.Piece {
	sum := md5.Sum(b.data)
	return task.Piece{Num: b.num, MD5: hex.EncodeToString(sum[:]), Length: int32(len(b.data))}
}

// buffers is a pool of buffers.
type buffers struct{ pool sync.Pool }

// get returns a buffer for a piece of the wrapped size, but for at most room bytes of it.
func (b *buffers) get(size int32, room int64) *buffer {
	need := int(min(int64(size), room))
	if need < piece.MinSize { // small buffers are not pooled
		return &buffer{size: size, data: make([]byte, need)}
	}
	if kept, ok := b.pool.Get().(*buffer); ok && cap(kept.data) >= need {
		kept.size, kept.data = size, kept.data[:need]
		return kept
	}
	return &buffer{size: size, data: make([]byte, need)}
}

// put returns a buffer to the pool, unless it is small or pinned.
func (b *buffers) put(used *buffer) {
	if cap(used.data) >= piece.MinSize && !used.pinned.Load() {
		b.pool.Put(used)
	}
}
