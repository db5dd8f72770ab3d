// Package task defines the values that the packages of the CDN exchange about a task,
// and compares versions of a source. It holds no state.
package task

import (
	"net/http"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/taskid"
)

// ID identifies a task. Only ParseID creates one, so that every ID can be used as a
// file name.
type ID string

// ParseID checks a task id, which has 64 lower-case hex digits. It returns
// taskid.ErrInvalid for anything else.
func ParseID(s string) (ID, error) {
	if err := taskid.Check(s); err != nil {
		return "", err
	}
	return ID(s), nil
}

// Facts holds what the headers of the source's response say about the content, and the
// piece size that was derived from it. Facts that are announced before the source has
// answered are provisional: they may have a piece size only.
type Facts struct {
	// Length is the length of the content in bytes, -1 if it is unknown.
	Length int64
	// PieceSize is the wrapped size of a piece in bytes.
	PieceSize int32
	// ETag is the header as it was sent, or empty.
	ETag string
	// LastModified is the header as it was sent, or empty.
	LastModified string
}

// Piece describes a piece on disk.
type Piece struct {
	// Num is the number of the piece, starting at 0.
	Num int32
	// MD5 is the hex MD5 of head, content and tail.
	MD5 string
	// Length is the wrapped length in bytes.
	Length int32
}

// Result describes the content of a complete task.
type Result struct {
	// MD5 is the hex MD5 of the content.
	MD5 string
	// Length is the length of the content in bytes.
	Length int64
	// PieceCount is the number of pieces, at least 1.
	PieceCount int32
}

// PieceLength returns the wrapped length of a piece in bytes, and 0 if there is no
// such piece. If the length of the content is unknown, it returns the piece size,
// which is the length of all pieces but the last.
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

// Possible reports whether a source can have such a version.
func (f Facts) Possible() bool {
	return f.PieceSize > piece.WrapLength && f.PieceSize <= piece.MaxSize &&
		(f.Length == -1 || piece.Count(f.Length, f.PieceSize) > 0)
}

// Settled reports whether the facts contain the length of the content.
func (f Facts) Settled() bool { return f.Length >= 0 && f.PieceSize > piece.WrapLength }

// Named reports whether the source sent a validator for the version.
func (f Facts) Named() bool { return f.ETag != "" || f.LastModified != "" }

// Same reports whether other is the same version, split into the same pieces. If one
// of them has neither a length nor a validator, such as most provisional facts, Same
// compares the piece size only.
func (f Facts) Same(other Facts) bool {
	if f.PieceSize != other.PieceSize {
		return false
	}
	if !f.Settled() && !f.Named() || !other.Settled() && !other.Named() {
		return true
	}
	return f.Length == other.Length && f.ETag == other.ETag && sameDate(f.LastModified, other.LastModified)
}

// sameDate compares two Last-Modified headers as times. Headers that are not dates are
// all equal, because they are not stored on disk.
func sameDate(a, b string) bool {
	first, err1 := http.ParseTime(a)
	second, err2 := http.ParseTime(b)
	return a == b || err1 != nil && err2 != nil || err1 == nil && err2 == nil && first.Equal(second)
}
