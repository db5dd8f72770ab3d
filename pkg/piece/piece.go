// Package piece computes the sizes, the number and the ranges of the pieces of a task,
// and encodes their wire format. It is pure: it does no I/O.
//
// The format is that of Dragonfly v1. A wrapped piece of size S has a 4-byte big-endian
// head, up to S-5 bytes of content, and the tail byte 0x7f. The head is
// contentLength | S<<4. Piece n starts at the offset n*S of the wrapped file. Its range
// is n*S to (n+1)*S-1, even if it is the last piece and shorter than S.
package piece

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

const (
	// HeadLength is the length of a piece's head in bytes.
	HeadLength = 4
	// WrapLength is the number of bytes that head and tail add to the content.
	WrapLength = HeadLength + 1
	// Tail is the last byte of every wrapped piece.
	Tail = 0x7f

	lengthMask = 1<<24 - 1
)

var (
	// ErrRange is returned for a range that no piece has.
	ErrRange = errors.New("not the range of a piece")
	// ErrFormat is returned for a wrapped piece or a piece digest that is not valid.
	ErrFormat = errors.New("not a valid piece")
)

// Range returns the range of piece num as "first-last". size is the wrapped piece size.
func Range(num, size int32) string {
	first := int64(num) * int64(size)
	return strconv.FormatInt(first, 10) + "-" + strconv.FormatInt(first+int64(size)-1, 10)
}

// ParseRange is the inverse of Range. It returns ErrRange for a text that Range does not
// return for any piece.
func ParseRange(s string) (num, size int32, err error) {
	firstText, lastText, ok := strings.Cut(s, "-")
	if !ok {
		return 0, 0, fmt.Errorf("%.64q: %w", s, ErrRange)
	}
	first, err1 := strconv.ParseUint(firstText, 10, 63)
	last, err2 := strconv.ParseUint(lastText, 10, 63)
	if err1 != nil || err2 != nil || last < first {
		return 0, 0, fmt.Errorf("%.64q: %w", s, ErrRange)
	}
	length := last - first + 1
	if length <= WrapLength || length > lengthMask || first%length != 0 || first/length > math.MaxInt32 {
		return 0, 0, fmt.Errorf("%.64q: %w", s, ErrRange)
	}
	num, size = int32(first/length), int32(length)
	if Range(num, size) != s { // for example leading zeros
		return 0, 0, fmt.Errorf("%.64q: %w", s, ErrRange)
	}
	return num, size, nil
}

// PutHead writes the head of a piece with contentLength bytes of content to buf, which
// must have HeadLength bytes. size is the wrapped piece size.
func PutHead(buf []byte, contentLength int, size int32) {
	binary.BigEndian.PutUint32(buf, uint32(contentLength)|uint32(size)<<4)
}

// Unwrap checks a wrapped piece and returns its content, which shares memory with
// wrapped. size is the wrapped piece size. Unwrap returns ErrFormat if the piece is not
// valid.
func Unwrap(wrapped []byte, size int32) ([]byte, error) {
	if len(wrapped) < WrapLength || len(wrapped) > int(size) {
		return nil, fmt.Errorf("%d bytes: %w", len(wrapped), ErrFormat)
	}
	content := wrapped[HeadLength : len(wrapped)-1]
	var head [HeadLength]byte
	PutHead(head[:], len(content), size)
	if [HeadLength]byte(wrapped[:HeadLength]) != head || wrapped[len(wrapped)-1] != Tail {
		return nil, fmt.Errorf("head %x, tail %x: %w", wrapped[:HeadLength], wrapped[len(wrapped)-1], ErrFormat)
	}
	return content, nil
}

// Digest returns the MD5 and the wrapped length of a piece in the form that is used on
// the wire and on disk: "<hex md5>:<length>".
func Digest(md5 string, length int32) string {
	return md5 + ":" + strconv.Itoa(int(length))
}

// ParseDigest is the inverse of Digest. It returns ErrFormat for any other text.
func ParseDigest(s string) (md5 string, length int32, err error) {
	md5, text, ok := strings.Cut(s, ":")
	n, convErr := strconv.ParseInt(text, 10, 32)
	if !ok || convErr != nil || n < WrapLength || !IsMD5(md5) {
		return "", 0, fmt.Errorf("piece digest %.64q: %w", s, ErrFormat)
	}
	return md5, int32(n), nil
}

// IsMD5 reports whether s is a lower-case hex MD5.
func IsMD5(s string) bool { return isHex(s, 32) }

func isHex(s string, length int) bool {
	if len(s) != length {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
