// Package task is the values that the packages of the CDN tell each other
// about a task. It holds no behaviour and no state: who fetches, keeps or
// serves a task is decided elsewhere.
package task

import "github.com/supernode-ha/supernode/pkg/taskid"

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
