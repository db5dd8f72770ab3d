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

// Version is what the pieces of a copy are pieces of.
type Version struct {
	// URL is the source without credentials, empty when it is not known.
	URL string
	// Facts are the source's.
	Facts task.Facts
	// Epoch is the one in which the copy was begun.
	Epoch int64
	// Known is when the source told its facts, in ms since 1970.
	Known int64
}

// Part is a copy that is not whole, as its journal tells.
type Part struct {
	// Version is what it is a part of.
	Version
	// Pieces are those whose writing was noted, once each. Nothing says that
	// the disk has kept them: their MD5s are to be checked.
	Pieces []task.Piece
	// Content is where they are, open for more.
	Content *Content
}

// header is the first line of a journal.
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

// decodeJournal reads a journal. A process may have been killed in the middle
// of a line, and a disk may have kept anything: what is no line is passed over.
func decodeJournal(data []byte) (Version, []task.Piece, error) {
	first, rest, ok := bytes.Cut(data, []byte("\n"))
	var h header
	if !ok || json.Unmarshal(first, &h) != nil {
		return Version{}, nil, fmt.Errorf("%w: the journal's first line", errInconsistent)
	}
	v := Version{URL: h.URL, Epoch: h.Epoch, Known: h.Known, Facts: task.Facts{
		Length: h.Length, PieceSize: h.PieceSize, ETag: h.ETag, LastModified: h.LastModified,
	}}
	if !v.Facts.Possible() {
		return Version{}, nil, fmt.Errorf("%w: a journal of pieces of %d bytes of %d", errInconsistent, h.PieceSize, h.Length)
	}
	var pieces []task.Piece
	seen := make(map[int32]int)
	for line, more, whole := bytes.Cut(rest, []byte("\n")); whole; line, more, whole = bytes.Cut(more, []byte("\n")) {
		p, ok := decodeLine(string(line))
		if !ok || p.Length != v.Facts.PieceLength(p.Num) && (v.Facts.Length >= 0 || p.Length > h.PieceSize) {
			continue
		}
		if at, again := seen[p.Num]; again {
			pieces[at] = p // written anew
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

// OpenPart opens a copy that is not whole, to go on with it. ErrAbsent means
// that there is none that can be gone on with.
func (s *Store) OpenPart(id task.ID) (*Part, error) {
	part, err := run(s.disk, "opening a part", func() (*Part, error) { return s.openPart(id) })
	switch {
	case Hangs(err):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrAbsent, err)
	}
	return part, nil
}

// Noted gives the pieces that the journal of a copy notes, none once it is
// whole. Like those of a Part they are to be checked.
func (c *Content) Noted() ([]task.Piece, error) {
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

// HasPart tells whether there is a copy that is not whole.
func (s *Store) HasPart(id task.ID) bool {
	_, err := run(s.disk, "looking for a part", func() (os.FileInfo, error) { return os.Stat(s.path(id) + partSuffix) })
	return err == nil
}

// Close lets a part go that nobody took.
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
		_ = file.Close() // the first error tells more
		return nil, err
	}
	journal, err := os.OpenFile(path+partSuffix, os.O_WRONLY|os.O_APPEND, 0)
	if err == nil && !bytes.HasSuffix(data, []byte("\n")) {
		_, err = journal.WriteString("\n") // what comes next is not the end of a torn line
	}
	if err != nil {
		_ = file.Close() // the first error tells more
		return nil, err
	}
	content := &Content{disk: s.disk, path: path, version: version, file: file, journal: journal, info: info}
	return &Part{Version: version, Pieces: pieces, Content: content}, nil
}
