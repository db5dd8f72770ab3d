package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Saved is a complete copy of a task that was found on disk.
type Saved struct {
	// Meta is the content of the .meta file.
	Meta Meta
	// Pieces are all pieces, sorted by number.
	Pieces []task.Piece
	// Result holds the MD5 and the length of the content.
	Result task.Result
	// Content is the content file, sealed.
	Content *Content
}

// Facts returns the facts that the source sent when the task was fetched.
func (s *Saved) Facts() task.Facts {
	return task.Facts{
		Length: s.Result.Length, PieceSize: s.Meta.PieceSize,
		ETag: s.Meta.ETag, LastModified: s.Meta.LastModifiedHeader(),
	}
}

// Load reads a complete copy of a task. It returns ErrAbsent if there is none. Any
// other error means that there is one that cannot be read, or whose files are
// inconsistent: it must not be used.
func (s *Store) Load(id task.ID) (*Saved, error) {
	saved, err := run(s.disk, "loading a task", func() (*Saved, error) { return s.load(id) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrAbsent
	}
	if err != nil {
		return nil, fmt.Errorf("loading task %s: %w", id, err)
	}
	return saved, nil
}

// Touch writes the time of an access to .meta. now is in ms since 1970.
func (s *Store) Touch(id task.ID, meta Meta, now int64) error {
	meta.Interval = max(0, now-meta.AccessTime)
	meta.AccessTime = now
	return diskError("writing .meta", s.disk.do("writing .meta", func() error { return writeMeta(s.path(id), meta) }))
}

func (s *Store) load(id task.ID) (*Saved, error) {
	path := s.path(id)
	metaData, err := os.ReadFile(path + metaSuffix)
	if err != nil {
		return nil, err
	}
	meta, err := decodeMeta(metaData)
	if err != nil {
		return nil, err
	}
	if !meta.Finish || !meta.Success {
		return nil, fs.ErrNotExist
	}
	digests, err := os.ReadFile(path + md5Suffix)
	if err != nil {
		return nil, err
	}
	pieces, md5, err := decodeDigests(digests)
	if err != nil {
		return nil, err
	}
	if meta.TaskID != string(id) || meta.RealMD5 != "" && meta.RealMD5 != md5 {
		return nil, fmt.Errorf("%w: .meta and .md5 are of different contents", errInconsistent)
	}
	if err := checkLengths(meta, pieces); err != nil {
		return nil, err
	}
	content, err := s.openSealed(path, meta, pieces)
	if err != nil {
		return nil, err
	}
	count := int32(len(pieces))
	return &Saved{Meta: meta, Pieces: pieces, Content: content, Result: task.Result{
		MD5: md5, PieceCount: count, Length: meta.FileLength - int64(count)*piece.WrapLength,
	}}, nil
}

// checkLengths returns an error unless all pieces but the last have the piece size
// and the sum of their lengths is that of the content file. pieces must not be empty.
func checkLengths(meta Meta, pieces []task.Piece) error {
	if meta.PieceSize <= piece.WrapLength || meta.PieceSize > piece.MaxSize {
		return fmt.Errorf("%w: the piece size is %d bytes", errInconsistent, meta.PieceSize)
	}
	last := len(pieces) - 1
	for _, p := range pieces[:last] {
		if p.Length != meta.PieceSize {
			return fmt.Errorf("%w: piece %d has %d bytes", errInconsistent, p.Num, p.Length)
		}
	}
	end := pieces[last].Length
	if end > meta.PieceSize || end == piece.WrapLength && last > 0 {
		return fmt.Errorf("%w: the last piece has %d bytes", errInconsistent, end)
	}
	if total := int64(last)*int64(meta.PieceSize) + int64(end); total != meta.FileLength {
		return fmt.Errorf("%w: the pieces have %d bytes, and .meta says %d", errInconsistent, total, meta.FileLength)
	}
	return nil
}

// maxProbedPieces is the maximum number of pieces whose head and tail are read when
// a copy is loaded. If nothing is cached, a disk takes longer for more pieces than a
// client waits.
const maxProbedPieces = 256

// openSealed checks the content file against .meta and .md5: its size, and the head
// and tail of its pieces. If there are more than maxProbedPieces, it checks evenly
// distributed ones. That finds most files whose content was lost in a power failure.
// It cannot find all of them; peers check the MD5 of every piece.
func (s *Store) openSealed(path string, meta Meta, pieces []task.Piece) (*Content, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // only read from
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() != meta.FileLength {
		return nil, fmt.Errorf("%w: the content file has %d bytes", errInconsistent, info.Size())
	}
	var want, head [piece.HeadLength]byte
	var tail [1]byte
	last := len(pieces) - 1
	step := last/maxProbedPieces + 1
	for i := last; i >= 0; i -= step {
		p := pieces[i]
		first := int64(p.Num) * int64(meta.PieceSize)
		_, headErr := file.ReadAt(head[:], first)
		_, tailErr := file.ReadAt(tail[:], first+int64(p.Length)-1)
		if err := errors.Join(headErr, tailErr); err != nil {
			return nil, err
		}
		piece.PutHead(want[:], int(p.Length)-piece.WrapLength, meta.PieceSize)
		if head != want || tail[0] != piece.Tail {
			return nil, fmt.Errorf("%w: piece %d has a wrong head or tail", errInconsistent, p.Num)
		}
	}
	return &Content{disk: s.disk, path: path, info: info, version: Version{
		URL: meta.URL, Facts: task.Facts{
			Length: meta.FileLength - int64(len(pieces))*piece.WrapLength, PieceSize: meta.PieceSize,
			ETag: meta.ETag, LastModified: meta.LastModifiedHeader(),
		},
	}}, nil
}
