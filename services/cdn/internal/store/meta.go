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

// Meta is the .meta file, field by field as Dragonfly v1 writes it.
type Meta struct {
	TaskID string `json:"taskID"`
	// URL is the source without user, password and fragment.
	URL       string `json:"url"`
	PieceSize int32  `json:"pieceSize"`
	// HTTPFileLen is the length of the content in bytes.
	HTTPFileLen int64  `json:"httpFileLen"`
	BizID       string `json:"bizId"`
	// AccessTime is when a client last asked for the task, in ms since 1970.
	AccessTime int64 `json:"accessTime"`
	// Interval is the time between the last two accesses in ms.
	Interval int64 `json:"interval"`
	// FileLength is the length of the wrapped file in bytes.
	FileLength int64 `json:"fileLength"`
	// MD5 is the MD5 that was asked for, or empty.
	MD5 string `json:"md5"`
	// RealMD5 is the MD5 that the content has.
	RealMD5 string `json:"realMd5"`
	// LastModified is the source's, in ms since 1970, or 0.
	LastModified int64  `json:"lastModified"`
	ETag         string `json:"eTag"`
	Finish       bool   `json:"finish"`
	Success      bool   `json:"success"`
}

// LastModifiedHeader is LastModified as a source sends it, or empty.
func (m Meta) LastModifiedHeader() string {
	if m.LastModified == 0 {
		return ""
	}
	return time.UnixMilli(m.LastModified).UTC().Format(http.TimeFormat)
}

// Milliseconds is a Last-Modified header as Meta holds it, 0 for what is no date.
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
		m.PieceSize = piece.DefaultSize // so did Dragonfly v1
	}
	return m, nil
}

// encodeDigests writes the .md5 file. The checksum is the SHA-1 over all lines
// before it without their line ends, and no line end follows it.
func encodeDigests(pieces []task.Piece, md5 string) []byte {
	lines := make([]string, 0, len(pieces)+2)
	for _, p := range pieces {
		lines = append(lines, piece.Digest(p.MD5, p.Length))
	}
	lines = append(lines, md5)
	return []byte(strings.Join(append(lines, checksum(lines)), "\n"))
}

// decodeDigests reads a .md5 file and checks that it is as it was written.
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
