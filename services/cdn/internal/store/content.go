package store

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Content is one version of a task's wrapped pieces. It is written while a
// fetch runs and sealed at its end. When the task is deleted or fetched anew,
// the old Content stays what it was and can no longer be opened: it never
// shows the bytes of another version.
type Content struct {
	path string

	mu sync.Mutex
	// file is open for writing until the content is sealed or closed; guarded by mu.
	file *os.File
	// info tells this version from another at the same path; guarded by mu.
	info os.FileInfo
}

// Create removes what there is of a task and begins a new version of it.
// Errors: DISK_FULL.
func (s *Store) Create(id task.ID) (*Content, error) {
	if err := s.Remove(id); err != nil {
		return nil, err
	}
	path := s.path(id)
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, diskError("making a directory of the cache", err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, diskError("creating the content file", err)
	}
	info, err := file.Stat()
	if err != nil {
		_ = file.Close() // the first error tells more
		return nil, diskError("looking at the content file", err)
	}
	return &Content{path: path, file: file, info: info}, nil
}

// WriteAt writes wrapped pieces at their offset. Different parts may be
// written at the same time. Errors: DISK_FULL.
func (c *Content) WriteAt(wrapped []byte, offset int64) error {
	c.mu.Lock()
	file := c.file
	c.mu.Unlock()
	if file == nil {
		return fmt.Errorf("writing a piece: %w", os.ErrClosed)
	}
	if _, err := file.WriteAt(wrapped, offset); err != nil {
		return diskError("writing a piece", err)
	}
	return nil
}

// Seal ends the writing: from now on the task is whole, also after a restart.
// The pieces may be in any order; meta's finish and success are set here.
// Errors: DISK_FULL.
func (c *Content) Seal(meta Meta, pieces []task.Piece) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	info, err := c.file.Stat()
	if err != nil {
		return diskError("looking at the content file", err)
	}
	err = c.file.Close()
	c.file = nil
	if err != nil {
		return diskError("closing the content file", err)
	}
	c.info = info

	ordered := slices.Clone(pieces)
	slices.SortFunc(ordered, func(a, b task.Piece) int { return int(a.Num) - int(b.Num) })
	if err := replace(c.path+md5Suffix, encodeDigests(ordered, meta.RealMD5)); err != nil {
		return diskError("writing the digests", err)
	}
	meta.Finish, meta.Success = true, true
	return writeMeta(c.path, meta)
}

// Close ends the writing of a version that will not become whole.
func (c *Content) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.file == nil {
		return nil
	}
	err := c.file.Close()
	c.file = nil
	return err
}

// Open gives the wrapped pieces for reading; the caller closes the file.
// os.ErrNotExist means that this version is not on disk any more.
func (c *Content) Open() (*os.File, error) {
	file, err := os.Open(c.path)
	if err != nil {
		return nil, fmt.Errorf("opening the content file: %w", err)
	}
	// The order matters: as long as c.file is open, no other file can have its
	// inode. Once sealed, an inode may be used again, so size and time must be
	// the same, too.
	c.mu.Lock()
	info, sealed := c.info, c.file == nil
	c.mu.Unlock()
	found, err := file.Stat()
	if err == nil && os.SameFile(found, info) &&
		(!sealed || found.Size() == info.Size() && found.ModTime().Equal(info.ModTime())) {
		return file, nil
	}
	_ = file.Close() // only read from
	return nil, fmt.Errorf("opening the content file: another version is there: %w", os.ErrNotExist)
}

func writeMeta(path string, meta Meta) error {
	data, err := json.Marshal(meta)
	if err != nil {
		return fmt.Errorf("encoding .meta: %w", err)
	}
	if err := replace(path+metaSuffix, data); err != nil {
		return diskError("writing .meta", err)
	}
	return nil
}
