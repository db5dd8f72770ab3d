package piece

import "math"

// Wrapped piece sizes in bytes. The wire format can encode whole MiB from 1 to 15.
const (
	// MinSize is the smallest size that SizeFor returns.
	MinSize = 1 * mib
	// DefaultSize is the size that SizeFor returns for a source of unknown length.
	DefaultSize = 4 * mib
	// MaxSize is the largest size that SizeFor returns.
	MaxSize = 15 * mib

	mib = 1 << 20
	gib = 1 << 30
)

// sizes returns the piece sizes by length of content, shortest content first.
//
// Small pieces are better for short files: a peer sends only complete pieces, so the
// time until peers exchange pieces is the transfer time of one piece. Large pieces are
// better for long files: each piece costs a peer one pull and one report, and takes
// memory in each scheduler. The last row sets the maximum number of pieces: for longer
// content the size grows with the length, up to MaxSize. Only content that is too long
// for MaxSize has more pieces.
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

// SizeFor returns the wrapped piece size in bytes for content of length bytes. A
// negative length means that the length is unknown. SizeFor applies to new copies of a
// task only: existing copies, and the record of the task, keep their size.
func SizeFor(length int64) int32 {
	if length < 0 {
		return DefaultSize
	}
	rows := sizes()
	for _, row := range rows {
		if length <= row.upTo {
			return row.size
		}
	}
	last := rows[len(rows)-1]
	pieces := last.upTo / int64(last.size)
	grown := (length-1)/(pieces*mib) + 1 // MiB, rounded up
	return int32(min(grown, MaxSize/mib)) * mib
}

// Count returns the number of pieces of size bytes for length bytes of content, at least
// 1. It returns 0 if length is negative, if size has no room for content, or if the
// number exceeds math.MaxInt32.
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
