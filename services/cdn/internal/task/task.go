// Package task is the values that the packages of the CDN tell each other
// about a task. It holds no behaviour and no state: who fetches, keeps or
// serves a task is decided elsewhere.
package task

import (
	"net/http"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// ID names a task. It is only made by ParseID, so that it is safe as a file
// name wherever it turns up.
type ID string

// ParseID checks a task id: 64 lower-case hex digits, or taskid.ErrInvalid.
func ParseID(s string) (ID, error) {
	if err := taskid.Check(s); err != nil {
		return "", err
	}
	return ID(s), nil
}

// Facts is what the answer of a source tells before its content.
type Facts struct {
	// Length is the number of bytes of content, -1 when it is not known.
	Length int64
	// PieceSize is the wrapped size of a piece in bytes.
	PieceSize int32
	// ETag is the header as it was sent, or empty.
	ETag string
	// LastModified is the header as it was sent, or empty.
	LastModified string
}

// Piece is a piece on disk.
type Piece struct {
	// Num counts from 0.
	Num int32
	// MD5 is the hex MD5 over head, content and tail.
	MD5 string
	// Length is the wrapped length in bytes.
	Length int32
}

// Result is what is known of a task that is whole.
type Result struct {
	// MD5 is the hex MD5 of the content.
	MD5 string
	// Length is the number of bytes of content.
	Length int64
	// PieceCount is the number of pieces, at least 1.
	PieceCount int32
}

// PieceLength is the wrapped length in bytes of a piece, 0 for one that there
// is not; all but the last are as long when the length is not known.
func (f Facts) PieceLength(num int32) int32 {
	if num < 0 || f.PieceSize <= piece.WrapLength {
		return 0
	}
	if f.Length < 0 {
		return f.PieceSize
	}
	left := f.Length - int64(num)*int64(f.PieceSize-piece.WrapLength)
	if left < 0 || left == 0 && num > 0 {
		return 0
	}
	return int32(min(left+piece.WrapLength, int64(f.PieceSize)))
}

// Possible tells whether there can be such a version.
func (f Facts) Possible() bool {
	return f.PieceSize > piece.WrapLength && f.PieceSize <= piece.MaxSize &&
		(f.Length == -1 || piece.Count(f.Length, f.PieceSize) > 0)
}

// Settled tells whether a version can be known by the facts: they tell its
// length, and not just what was announced before the source answered.
func (f Facts) Settled() bool { return f.Length >= 0 && f.PieceSize > piece.WrapLength }

// Named tells whether the source gave the version a name.
func (f Facts) Named() bool { return f.ETag != "" || f.LastModified != "" }

// Same tells whether other is the same version, cut into the same pieces. What
// was announced before the source answered only tells the piece size.
func (f Facts) Same(other Facts) bool {
	if f.PieceSize != other.PieceSize {
		return false
	}
	if !f.Settled() && !f.Named() || !other.Settled() && !other.Named() {
		return true
	}
	return f.Length == other.Length && f.ETag == other.ETag && sameDate(f.LastModified, other.LastModified)
}

// sameDate knows that what is no date is not kept on disk.
func sameDate(a, b string) bool {
	first, err1 := http.ParseTime(a)
	second, err2 := http.ParseTime(b)
	return a == b || err1 != nil && err2 != nil || err1 == nil && err2 == nil && first.Equal(second)
}
