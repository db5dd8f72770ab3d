package store

import (
	"encoding/json"
	"errors"
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
	disk    *guard
	path    string
	version Version

	// mu is never held over an operation on the disk.
	mu sync.Mutex
	// file and journal are open until the content is sealed or closed; guarded by mu.
	file, journal *os.File
	// info tells this version from another at the same path; guarded by mu.
	info os.FileInfo
}

// Create removes what there is of a task and begins a copy of a version.
// Errors: DISK_FULL, DISK_FAILED.
func (s *Store) Create(id task.ID, version Version) (*Content, error) {
	first, err := encodeHeader(version)
	if err != nil {
		return nil, err
	}
	content, err := run(s.disk, "creating the content file", func() (*Content, error) {
		return s.create(id, version, first)
	})
	return content, diskError("creating the content file", err)
}

func (s *Store) create(id task.ID, version Version, first []byte) (*Content, error) {
	if err := s.remove(id); err != nil {
		return nil, err
	}
	path := s.path(id)
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	journal, err := os.OpenFile(path+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, fileMode)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if _, err := journal.Write(first); err != nil {
		return nil, errors.Join(err, journal.Close(), file.Close())
	}
	return &Content{disk: s.disk, path: path, version: version, file: file, journal: journal, info: info}, nil
}

// Version is what the pieces are pieces of.
func (c *Content) Version() Version { return c.version }

// Write writes a wrapped piece and then notes in the journal that it is here.
// Different pieces may be written at the same time. Errors: DISK_FULL,
// DISK_FAILED.
func (c *Content) Write(p task.Piece, wrapped []byte) error {
	file, journal := c.files()
	if file == nil {
		return fmt.Errorf("writing a piece: %w", os.ErrClosed)
	}
	return diskError("writing a piece", c.disk.do("writing a piece", func() error {
		if _, err := file.WriteAt(wrapped, int64(p.Num)*int64(c.version.Facts.PieceSize)); err != nil {
			return err
		}
		if journal == nil {
			return nil
		}
		_, err := journal.Write(encodeLine(p)) // in one go, so lines do not mix
		return err
	}))
}

// Read reads a wrapped piece into the memory that is as long as it. If the disk
// hangs, the memory must not be used again.
func (c *Content) Read(num int32, wrapped []byte) error {
	file, _ := c.files()
	if file == nil {
		return fmt.Errorf("reading a piece: %w", os.ErrClosed)
	}
	return diskError("reading a piece", c.disk.do("reading a piece", func() error {
		_, err := file.ReadAt(wrapped, int64(num)*int64(c.version.Facts.PieceSize))
		return err
	}))
}

func (c *Content) files() (file, journal *os.File) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.file, c.journal
}

// Seal ends the writing: from now on the task is whole, also after a restart.
// The pieces may be in any order; meta's finish and success are set here.
// Errors: DISK_FULL, DISK_FAILED.
func (c *Content) Seal(meta Meta, pieces []task.Piece) error {
	file, journal := c.files()
	if file == nil {
		return fmt.Errorf("sealing: %w", os.ErrClosed)
	}
	ordered := slices.Clone(pieces)
	slices.SortFunc(ordered, func(a, b task.Piece) int { return int(a.Num) - int(b.Num) })
	meta.Finish, meta.Success = true, true
	info, err := run(c.disk, "closing the content file", func() (os.FileInfo, error) {
		info, err := file.Stat()
		return info, errors.Join(err, file.Close())
	})
	if err != nil {
		return diskError("closing the content file", err)
	}
	c.mu.Lock()
	c.info, c.file, c.journal = info, nil, nil
	c.mu.Unlock()
	return diskError("sealing", c.disk.do("sealing", func() error {
		if err := replace(c.path+md5Suffix, encodeDigests(ordered, meta.RealMD5)); err != nil {
			return fmt.Errorf("writing the digests: %w", err)
		}
		if err := writeMeta(c.path, meta); err != nil {
			return err
		}
		if journal != nil {
			// What it says is said better now; if it stays, the next start removes it.
			_ = journal.Close()
			_ = os.Remove(c.path + partSuffix)
		}
		return nil
	}))
}

// Close ends the writing of a copy that has not become whole. What has been
// written stays on disk.
func (c *Content) Close() error {
	c.mu.Lock()
	file, journal := c.file, c.journal
	c.file, c.journal = nil, nil
	c.mu.Unlock()
	if file == nil {
		return nil
	}
	err := c.disk.release(file)
	if journal != nil {
		err = errors.Join(err, c.disk.release(journal))
	}
	return err
}

// Reader is the wrapped pieces, to be read.
type Reader struct {
	// File is for the kernel to copy from.
	File *os.File
	disk *guard
}

// Close ends the reading, without waiting for a disk that hangs.
func (r *Reader) Close() error { return r.disk.release(r.File) }

// Open gives the wrapped pieces for reading; the caller closes it.
// os.ErrNotExist means that this version is not on disk any more.
func (c *Content) Open() (*Reader, error) {
	// The order matters: as long as c.file is open, no other file can have its
	// inode. Once sealed, an inode may be used again, so size and time must be
	// the same, too.
	file, err := run(c.disk, "opening the content file", func() (*os.File, error) { return os.Open(c.path) })
	if err != nil {
		return nil, fmt.Errorf("opening the content file: %w", err)
	}
	c.mu.Lock()
	info, sealed := c.info, c.file == nil
	c.mu.Unlock()
	found, err := run(c.disk, "opening the content file", file.Stat)
	reader := &Reader{File: file, disk: c.disk}
	if err == nil && os.SameFile(found, info) &&
		(!sealed || found.Size() == info.Size() && found.ModTime().Equal(info.ModTime())) {
		return reader, nil
	}
	_ = reader.Close() // only read from
	if Hangs(err) {
		return nil, err
	}
	return nil, fmt.Errorf("opening the content file: another version is there: %w", os.ErrNotExist)
}

func writeMeta(path string, meta Meta) error {
	data, err := json.Marshal(meta)
	if err != nil {
		return fmt.Errorf("encoding .meta: %w", err)
	}
	if err := replace(path+metaSuffix, data); err != nil {
		return fmt.Errorf("writing .meta: %w", err)
	}
	return nil
}
