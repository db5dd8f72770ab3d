package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Saved is a whole task as it was found on disk.
type Saved struct {
	// Meta is the .meta file.
	Meta Meta
	// Pieces are all pieces by number.
	Pieces []task.Piece
	// Result is what the task came to.
	Result task.Result
	// Content is the wrapped pieces.
	Content *Content
}

// Facts are what the source told when the task was fetched.
func (s *Saved) Facts() task.Facts {
	return task.Facts{
		Length: s.Result.Length, PieceSize: s.Meta.PieceSize,
		ETag: s.Meta.ETag, LastModified: s.Meta.LastModifiedHeader(),
	}
}

// Load looks for a whole copy of a task. ErrAbsent means that there is none,
// any other error that there is one which must not be used.
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

// Touch notes in .meta that somebody asked for the task, at now in ms since 1970.
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

// checkLengths makes sure that all pieces are full but the last, and that they
// are as long together as the file.
func checkLengths(meta Meta, pieces []task.Piece) error {
	if meta.PieceSize <= piece.WrapLength || meta.PieceSize > piece.MaxSize {
		return fmt.Errorf("%w: pieces of %d bytes", errInconsistent, meta.PieceSize)
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
		return fmt.Errorf("%w: pieces of %d bytes in a file of %d", errInconsistent, total, meta.FileLength)
	}
	return nil
}

// mostProbed is in how many places a content file is looked into: more would
// take a cold disk longer than a client waits.
const mostProbed = 256

// openSealed checks the content file against what the other two say: its size,
// and head and tail of its pieces, or of some all over it if there are many.
// What was never written, because the power went, mostly shows there; for what
// does not, peers check the MD5 of every piece.
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
	step := last/mostProbed + 1
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
			return nil, fmt.Errorf("%w: piece %d is not wrapped", errInconsistent, p.Num)
		}
	}
	return &Content{disk: s.disk, path: path, info: info, version: Version{
		URL: meta.URL, Facts: task.Facts{
			Length: meta.FileLength - int64(len(pieces))*piece.WrapLength, PieceSize: meta.PieceSize,
			ETag: meta.ETag, LastModified: meta.LastModifiedHeader(),
		},
	}}, nil
}
