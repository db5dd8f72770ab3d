// Package piece is the arithmetic and the wire format of pieces: how a task's
// bytes are cut, wrapped, numbered and named by ranges. It is pure: no I/O, no
// knowledge of who stores or sends a piece.
//
// The format is Dragonfly v1's. A piece of size S on the wire is a 4-byte
// big-endian head, up to S-5 bytes of content, and the tail byte 0x7f. The
// head is contentLength | S<<4. Piece n starts at offset n*S of the wrapped
// file; its range is always n*S to (n+1)*S-1, the last one's too.
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
	// WrapLength is how many bytes longer a wrapped piece is than its content.
	WrapLength = HeadLength + 1
	// Tail is the last byte of every wrapped piece.
	Tail = 0x7f

	lengthMask = 1<<24 - 1
)

var (
	// ErrRange is a range that no piece has.
	ErrRange = errors.New("not the range of a piece")
	// ErrFormat is a wrapped piece whose head, tail or length are wrong.
	ErrFormat = errors.New("not a wrapped piece")
)

// Range names piece num of the given wrapped size, as "first-last".
func Range(num, size int32) string {
	first := int64(num) * int64(size)
	return strconv.FormatInt(first, 10) + "-" + strconv.FormatInt(first+int64(size)-1, 10)
}

// ParseRange is the inverse of Range. Anything that Range could not have
// written is ErrRange.
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
	if Range(num, size) != s { // leading zeros, plus signs
		return 0, 0, fmt.Errorf("%.64q: %w", s, ErrRange)
	}
	return num, size, nil
}

// PutHead writes the head of a piece of the given wrapped size that carries
// contentLength bytes. buf must hold HeadLength bytes.
func PutHead(buf []byte, contentLength int, size int32) {
	binary.BigEndian.PutUint32(buf, uint32(contentLength)|uint32(size)<<4)
}

// Unwrap checks a wrapped piece and gives its content, a part of wrapped.
// Anything but one well-formed piece of that size is ErrFormat.
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

// Digest is how a piece's MD5 and wrapped length are written on the wire and
// on disk: "<hex md5>:<length>".
func Digest(md5 string, length int32) string {
	return md5 + ":" + strconv.Itoa(int(length))
}

// ParseDigest is the inverse of Digest.
func ParseDigest(s string) (md5 string, length int32, err error) {
	md5, text, ok := strings.Cut(s, ":")
	n, convErr := strconv.ParseInt(text, 10, 32)
	if !ok || convErr != nil || n < WrapLength || !IsMD5(md5) {
		return "", 0, fmt.Errorf("piece digest %.64q: %w", s, ErrFormat)
	}
	return md5, int32(n), nil
}

// IsMD5 tells whether s is a lower-case hex MD5.
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
