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

// Content is the content file of one version of a task: its wrapped pieces. It is
// written while a fetch runs, and sealed when all pieces are written. When the task
// is deleted or fetched from scratch, the old Content can no longer be opened. So
// it never returns bytes of another version.
//
//	Create or OpenPart --> writable --Seal--> sealed
//	                          └----Close----> closed
//
// A Content from Load is sealed. A closed Content cannot be opened.
type Content struct {
	disk    *guard
	path    string
	version Version

	// mu is never locked during an operation on the disk.
	mu sync.Mutex
	// file and journal are open until the content is sealed or closed, and nil
	// afterwards; guarded by mu.
	file, journal *os.File
	// info identifies the file of this version among all files that were at the
	// path; guarded by mu.
	info os.FileInfo
}

// Create removes all files of a task and creates an empty copy of a version.
// Errors: DISK_FULL, DISK_FAILED.
func (s *Store) Create(id task.ID, version Version) (*Content, error) {
	firstLine, err := encodeHeader(version)
	if err != nil {
		return nil, err
	}
	content, err := run(s.disk, "creating the content file", func() (*Content, error) {
		return s.create(id, version, firstLine)
	})
	return content, diskError("creating the content file", err)
}

func (s *Store) create(id task.ID, version Version, firstLine []byte) (*Content, error) {
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
	if _, err := journal.Write(firstLine); err != nil {
		return nil, errors.Join(err, journal.Close(), file.Close())
	}
	return &Content{disk: s.disk, path: path, version: version, file: file, journal: journal, info: info}, nil
}

// Version returns the version of the source that the pieces belong to.
func (c *Content) Version() Version { return c.version }

// Write writes a wrapped piece and then appends it to the journal. Different pieces
// may be written at the same time. Errors: DISK_FULL, DISK_FAILED, or os.ErrClosed
// after Seal or Close.
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
		_, err := journal.Write(encodeLine(p)) // one call per line, so that lines do not mix
		return err
	}))
}

// Read reads a wrapped piece while the content is writable. wrapped must be as long
// as the piece. If TimedOut is true for the error, wrapped must not be used again.
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

// Seal closes the content file and writes .md5 and .meta. After that the copy is
// complete, also for Load after a restart. The pieces may be in any order. Seal sets
// Finish and Success of meta. Errors: DISK_FULL, DISK_FAILED.
func (c *Content) Seal(meta Meta, pieces []task.Piece) error {
	file, journal := c.files()
	if file == nil {
		return fmt.Errorf("sealing a copy: %w", os.ErrClosed)
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
	return diskError("sealing a copy", c.disk.do("sealing a copy", func() error {
		if err := replace(c.path+md5Suffix, encodeDigests(ordered, meta.RealMD5)); err != nil {
			return fmt.Errorf("writing the digests: %w", err)
		}
		if err := writeMeta(c.path, meta); err != nil {
			return err
		}
		if journal != nil {
			// .md5 and .meta replace the journal. If it cannot be removed, sweep
			// removes it at the next start.
			_ = journal.Close()
			_ = os.Remove(c.path + partSuffix)
		}
		return nil
	}))
}

// Close closes the files of a copy that is not complete. They stay on disk, and
// OpenPart opens them again. Close does nothing after Seal.
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

// Reader reads the wrapped pieces.
type Reader struct {
	// File is the content file, open for reading. It is a plain file, so that the
	// kernel can copy from it to a connection.
	File *os.File
	disk *guard
}

// Close closes the file. It does not wait longer than the disk timeout.
func (r *Reader) Close() error { return r.disk.release(r.File) }

// Open opens the wrapped pieces for reading. The caller closes the reader. Open
// returns os.ErrNotExist if the file of this version is no longer on disk, or if the
// content was closed before it was complete.
func (c *Content) Open() (*Reader, error) {
	// The file is opened before info is read. As long as c.file is open, no other
	// file can have its inode. After it is closed, the file system may use the inode
	// again, so size and modification time are compared, too.
	file, err := run(c.disk, "opening the content file", func() (*os.File, error) { return os.Open(c.path) })
	if err != nil {
		return nil, fmt.Errorf("opening the content file: %w", err)
	}
	c.mu.Lock()
	info, ended := c.info, c.file == nil
	c.mu.Unlock()
	found, err := run(c.disk, "opening the content file", file.Stat)
	reader := &Reader{File: file, disk: c.disk}
	if err == nil && os.SameFile(found, info) &&
		(!ended || found.Size() == info.Size() && found.ModTime().Equal(info.ModTime())) {
		return reader, nil
	}
	_ = reader.Close() // only read from
	if TimedOut(err) {
		return nil, err
	}
	return nil, fmt.Errorf("opening the content file: it belongs to another version: %w", os.ErrNotExist)
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
