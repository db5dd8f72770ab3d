package piece

import "math"

// Wrapped piece sizes in bytes. The wire format carries whole MiB from 1 to 15.
const (
	// MinSize is the smallest size that SizeFor returns.
	MinSize = 1 * mib
	// DefaultSize is the size for a source of unknown length.
	DefaultSize = 4 * mib
	// MaxSize is the largest size that SizeFor returns.
	MaxSize = 15 * mib

	mib = 1 << 20
	gib = 1 << 30
)

// sizes returns the piece sizes by length of content, shortest content first.
//
// A short file needs small pieces: a peer can pass on only what it has whole,
// so the time until peers exchange pieces is the time that one piece takes. A
// long file needs large pieces: every piece costs a peer one pull and one
// report, and costs each scheduler memory. The last row is the most pieces that
// a task has: for a longer source the size grows with the length.
func sizes() [4]struct {
	upTo int64 // bytes of content
	size int32
} {
	return [...]struct {
		upTo int64
		size int32
	}{
		{100 * mib, MinSize},
		{1 * gib, 3 * mib},
		{4 * gib, DefaultSize},
		{64 * gib, 8 * mib},
	}
}

// SizeFor returns the wrapped piece size in bytes for a source of length bytes;
// a negative length is an unknown one. Only a new copy of a task is cut by it:
// copies that exist, and the task's record, keep the size that they have.
func SizeFor(length int64) int32 {
	if length < 0 {
		return DefaultSize
	}
	table := sizes()
	for _, row := range table {
		if length <= row.upTo {
			return row.size
		}
	}
	last := table[len(table)-1]
	pieces := last.upTo / int64(last.size)
	grown := (length-1)/(pieces*mib) + 1 // MiB, rounded up
	return int32(min(grown, MaxSize/mib)) * mib
}

// Count returns the number of pieces of size bytes that length bytes of content
// make, at least 1. It is 0 for a negative length or a size without room for
// content.
func Count(length int64, size int32) int32 {
	content := int64(size) - WrapLength
	if length < 0 || content <= 0 {
		return 0
	}
	if length == 0 {
		return 1
	}
	n := (length-1)/content + 1
	if n > math.MaxInt32 {
		return 0
	}
	return int32(n)
}
