package store

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Version identifies the version of the source that the pieces of a copy belong to.
type Version struct {
	// URL is the URL of the source without credentials, empty if it is unknown.
	URL string
	// Facts are the facts that the source sent.
	Facts task.Facts
	// Epoch is the epoch in which the copy was created.
	Epoch int64
	// Known is the time at which the source sent the facts, in ms since 1970.
	Known int64
}

// Part is a partial copy, as its journal describes it.
type Part struct {
	// Version is the version that the copy belongs to.
	Version
	// Pieces are the pieces that the journal lists, each of them once. The disk may
	// have lost some of them in a power failure: the caller has to check their MD5s.
	Pieces []task.Piece
	// Content is the content file, open for reading and writing.
	Content *Content
}

// header is the first line of a journal, in JSON.
type header struct {
	URL          string `json:"url"`
	PieceSize    int32  `json:"pieceSize"`
	Length       int64  `json:"length"`
	ETag         string `json:"eTag"`
	LastModified string `json:"lastModified"`
	Epoch        int64  `json:"epoch"`
	Known        int64  `json:"known"`
}

func encodeHeader(v Version) ([]byte, error) {
	line, err := json.Marshal(header{
		URL: v.URL, PieceSize: v.Facts.PieceSize, Length: v.Facts.Length,
		ETag: v.Facts.ETag, LastModified: v.Facts.LastModified, Epoch: v.Epoch, Known: v.Known,
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the journal's first line: %w", err)
	}
	return append(line, '\n'), nil
}

func encodeLine(p task.Piece) []byte {
	return []byte(strconv.Itoa(int(p.Num)) + " " + piece.Digest(p.MD5, p.Length) + "\n")
}

// decodeJournal parses a journal. The last line may be incomplete if the process was
// killed, and other lines may be damaged if the power failed: decodeJournal skips
// lines that are not valid.
func decodeJournal(data []byte) (Version, []task.Piece, error) {
	first, rest, ok := bytes.Cut(data, []byte("\n"))
	var h header
	if !ok || json.Unmarshal(first, &h) != nil {
		return Version{}, nil, fmt.Errorf("%w: the first line of the journal cannot be decoded", errInconsistent)
	}
	v := Version{URL: h.URL, Epoch: h.Epoch, Known: h.Known, Facts: task.Facts{
		Length: h.Length, PieceSize: h.PieceSize, ETag: h.ETag, LastModified: h.LastModified,
	}}
	if !v.Facts.Possible() {
		return Version{}, nil, fmt.Errorf("%w: the journal has a piece size of %d bytes and a length of %d bytes", errInconsistent, h.PieceSize, h.Length)
	}
	var pieces []task.Piece
	seen := make(map[int32]int)
	for line, more, complete := bytes.Cut(rest, []byte("\n")); complete; line, more, complete = bytes.Cut(more, []byte("\n")) {
		p, ok := decodeLine(string(line))
		if !ok || p.Length != v.Facts.PieceLength(p.Num) && (v.Facts.Length >= 0 || p.Length > h.PieceSize) {
			continue
		}
		if at, again := seen[p.Num]; again {
			pieces[at] = p // it was written a second time
			continue
		}
		seen[p.Num] = len(pieces)
		pieces = append(pieces, p)
	}
	return v, pieces, nil
}

func decodeLine(line string) (task.Piece, bool) {
	numText, digest, ok := strings.Cut(line, " ")
	num, err := strconv.ParseUint(numText, 10, 31)
	sum, length, digestErr := piece.ParseDigest(digest)
	if !ok || err != nil || digestErr != nil {
		return task.Piece{}, false
	}
	return task.Piece{Num: int32(num), MD5: sum, Length: length}, true
}

// OpenPart opens a partial copy, so that more pieces can be written. It returns
// ErrAbsent if there is none that can be resumed.
func (s *Store) OpenPart(id task.ID) (*Part, error) {
	part, err := run(s.disk, "opening a partial copy", func() (*Part, error) { return s.openPart(id) })
	switch {
	case TimedOut(err):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	return part, nil
}

// JournalPieces returns the pieces that the journal of a copy lists, and none if the
// copy is sealed or closed. The caller has to check their MD5s, as with those of a
// Part.
func (c *Content) JournalPieces() ([]task.Piece, error) {
	if _, journal := c.files(); journal == nil {
		return nil, nil
	}
	return run(c.disk, "reading a journal", func() ([]task.Piece, error) {
		data, err := os.ReadFile(c.path + partSuffix)
		if err != nil {
			return nil, err
		}
		_, pieces, err := decodeJournal(data)
		return pieces, err
	})
}

// HasPart reports whether there is a partial copy of a task. It returns false if the
// disk does not respond.
func (s *Store) HasPart(id task.ID) bool {
	_, err := run(s.disk, "looking for a partial copy", func() (os.FileInfo, error) { return os.Stat(s.path(id) + partSuffix) })
	return err == nil
}

// Close closes the files of a part whose Content is not used.
func (p *Part) Close() error { return p.Content.Close() }

func (s *Store) openPart(id task.ID) (*Part, error) {
	path := s.path(id)
	data, err := os.ReadFile(path + partSuffix)
	if err != nil {
		return nil, err
	}
	version, pieces, err := decodeJournal(data)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close() // the first error is returned
		return nil, err
	}
	journal, err := os.OpenFile(path+partSuffix, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil && !bytes.HasSuffix(data, []byte("\n")) {
		_, err = journal.WriteString("\n") // ends an incomplete line
	}
	if err != nil {
		_ = file.Close() // the first error is returned
		return nil, err
	}
	content := &Content{disk: s.disk, path: path, version: version, file: file, journal: journal, info: info}
	return &Part{Version: version, Pieces: pieces, Content: content}, nil
}
