package store

import (
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Meta is the content of a .meta file. Its fields are those that Dragonfly v1 writes.
type Meta struct {
	TaskID string `json:"taskID"`
	// URL is the URL of the source without user, password and fragment.
	URL       string `json:"url"`
	PieceSize int32  `json:"pieceSize"`
	// HTTPFileLen is the length of the content in bytes.
	HTTPFileLen int64  `json:"httpFileLen"`
	BizID       string `json:"bizId"`
	// AccessTime is the time of the last request for the task, in ms since 1970.
	AccessTime int64 `json:"accessTime"`
	// Interval is the time between the last two accesses in ms.
	Interval int64 `json:"interval"`
	// FileLength is the length of the wrapped file in bytes.
	FileLength int64 `json:"fileLength"`
	// MD5 is the MD5 of the content that the client requires, or empty.
	MD5 string `json:"md5"`
	// RealMD5 is the computed MD5 of the content.
	RealMD5 string `json:"realMd5"`
	// LastModified is the modification time that the source sent, in ms since 1970,
	// or 0.
	LastModified int64  `json:"lastModified"`
	ETag         string `json:"eTag"`
	Finish       bool   `json:"finish"`
	Success      bool   `json:"success"`
}

// LastModifiedHeader returns LastModified in the format of an HTTP header, or an
// empty string if it is 0.
func (m Meta) LastModifiedHeader() string {
	if m.LastModified == 0 {
		return ""
	}
	return time.UnixMilli(m.LastModified).UTC().Format(http.TimeFormat)
}

// Milliseconds converts a Last-Modified header to ms since 1970. It returns 0 if the
// header is not a date.
func Milliseconds(header string) int64 {
	t, err := http.ParseTime(header)
	if err != nil {
		return 0
	}
	return t.UnixMilli()
}

var errInconsistent = errors.New("inconsistent cache files")

func decodeMeta(data []byte) (Meta, error) {
	var m Meta
	if err := json.Unmarshal(data, &m); err != nil {
		return Meta{}, fmt.Errorf("%w: .meta: %w", errInconsistent, err)
	}
	if m.PieceSize == 0 {
		m.PieceSize = piece.DefaultSize // as Dragonfly v1 does
	}
	return m, nil
}

// encodeDigests returns the content of a .md5 file. Its last line is the SHA-1 of
// all lines before it without their line ends, and has no line end.
func encodeDigests(pieces []task.Piece, md5 string) []byte {
	lines := make([]string, 0, len(pieces)+2)
	for _, p := range pieces {
		lines = append(lines, piece.Digest(p.MD5, p.Length))
	}
	lines = append(lines, md5)
	return []byte(strings.Join(append(lines, checksum(lines)), "\n"))
}

// decodeDigests parses a .md5 file and verifies its checksum. It returns at least one
// piece if it returns no error.
func decodeDigests(data []byte) (pieces []task.Piece, md5 string, err error) {
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	const others = 2 // the content's MD5 and the checksum
	if len(lines) <= others {
		return nil, "", fmt.Errorf("%w: .md5 has %d lines", errInconsistent, len(lines))
	}
	last := len(lines) - 1
	if checksum(lines[:last]) != lines[last] {
		return nil, "", fmt.Errorf("%w: .md5 does not match its checksum", errInconsistent)
	}
	if md5 = lines[last-1]; !piece.IsMD5(md5) {
		return nil, "", fmt.Errorf("%w: .md5 has no MD5 of the content", errInconsistent)
	}
	pieces = make([]task.Piece, 0, len(lines)-others)
	for i, line := range lines[:last-1] {
		sum, length, err := piece.ParseDigest(line)
		if err != nil {
			return nil, "", fmt.Errorf("%w: .md5: %w", errInconsistent, err)
		}
		pieces = append(pieces, task.Piece{Num: int32(i), MD5: sum, Length: length})
	}
	return pieces, md5, nil
}

func checksum(lines []string) string {
	h := sha1.New()
	for _, l := range lines {
		h.Write([]byte(l))
	}
	return hex.EncodeToString(h.Sum(nil))
}
