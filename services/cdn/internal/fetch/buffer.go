package fetch

import (
	"crypto/md5"
	"encoding/hex"
	"sync"
	"sync/atomic"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// buffer is one piece on its way to the disk.
type buffer struct {
	num  int32
	size int32  // of a full piece, wrapped
	data []byte // the room for the piece, then the piece, wrapped
	// users counts those who still read it.
	users atomic.Int32
	// pinned is memory that a disk that hangs may still read or write.
	pinned atomic.Bool
}

// content is the room for content.
func (b *buffer) content() []byte { return b.data[piece.HeadLength : len(b.data)-1] }

// seal wraps the first length bytes of content.
func (b *buffer) seal(num int32, length int) {
	b.num = num
	b.data = b.data[:length+piece.WrapLength]
	piece.PutHead(b.data, length, b.size)
	b.data[len(b.data)-1] = piece.Tail
}

// piece is what there is to tell of it.
func (b *buffer) piece() task.Piece {
	sum := md5.Sum(b.data)
	return task.Piece{Num: b.num, MD5: hex.EncodeToString(sum[:]), Length: int32(len(b.data))}
}

// buffers keeps the memory of pieces for the next ones.
type buffers struct{ pool sync.Pool }

// get gives a buffer for pieces of the wrapped size, of which not more than
// room bytes will be used.
func (b *buffers) get(size int32, room int64) *buffer {
	need := int(min(int64(size), room))
	if need < piece.MinSize { // the memory of a small file is not worth keeping
		return &buffer{size: size, data: make([]byte, need)}
	}
	if kept, ok := b.pool.Get().(*buffer); ok && cap(kept.data) >= need {
		kept.size, kept.data = size, kept.data[:need]
		return kept
	}
	return &buffer{size: size, data: make([]byte, need)}
}

func (b *buffers) put(used *buffer) {
	if cap(used.data) >= piece.MinSize && !used.pinned.Load() {
		b.pool.Put(used)
	}
}
