// Package store reads and writes the cache directory, which holds the copies of
// tasks. Its layout is that of Dragonfly v1, so that each can read the files of the
// other. It does not access sources, and its callers decide which copies to keep.
//
// The files of a task are in <home>/repo/download/<first 3 characters of its id>/:
//
//	<id>       the wrapped pieces, piece n at the offset n times the piece size
//	<id>.md5   a digest of every piece, the MD5 of the content, a checksum of both
//	<id>.meta  the metadata in JSON
//	<id>.part  the journal of a partial copy: its version, then a line for every piece
//
// The states of a copy:
//
//	absent --Create--> partial: content and journal
//	partial --Seal---> complete: content, .md5 and .meta
//	partial or complete --Remove--> absent
//
// Invariants:
//
//   - .md5 and .meta are written after the content, in this order, and .meta says
//     "finish" and "success". So a copy with such a .meta is complete.
//   - Files of a task that has neither .meta nor a journal are leftovers. Open
//     removes them.
//   - After Open, an access to the disk by this package blocks its caller for the
//     disk timeout at most. The bytes that a Reader's caller copies are not covered.
package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	metaSuffix = ".meta"
	md5Suffix  = ".md5"
	partSuffix = ".part"
	// tempSuffix is the suffix of a file that is written before it is renamed.
	tempSuffix = ".tmp"

	dirMode  = 0o755
	fileMode = 0o644
)

// ErrAbsent is returned if the requested copy, complete or partial, is not on disk.
var ErrAbsent = errors.New("not on disk")

// Store accesses one cache directory. Its methods may be called concurrently for
// different tasks. The caller ensures that a task has at most one writer at a time.
type Store struct {
	root string
	// lock is the open root directory. It is locked until it is closed.
	lock *os.File
	disk *guard
}

// Open opens the cache directory under home, and creates it if it does not exist. It
// returns an error if the directory cannot be written or is in use by another
// process, which would remove files that this one is writing. Open removes leftovers
// of an earlier process. An operation on the disk that takes longer than timeout
// counts as failed. The caller closes the store.
func Open(home string, timeout time.Duration) (*Store, error) {
	root := filepath.Join(home, "repo", "download")
	if err := os.MkdirAll(root, dirMode); err != nil {
		return nil, fmt.Errorf("creating the cache directory: %w", err)
	}
	probe, err := os.CreateTemp(root, "probe")
	if err != nil {
		return nil, fmt.Errorf("checking that the cache directory is writable: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("checking that the cache directory is writable: %w", err)
	}
	locked, err := lock(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, lock: locked, disk: newGuard(timeout)}
	if err := s.sweep(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close releases the directory for other processes. If the disk does not respond,
// Close returns no error: the lock ends with the process.
func (s *Store) Close() error {
	if err := s.disk.release(s.lock); err != nil && !TimedOut(err) {
		return fmt.Errorf("closing the cache directory: %w", err)
	}
	return nil
}

// lock opens and locks a directory. The lock ends when the returned file is closed,
// or when the process ends. If the file system has no locks, lock returns the open
// directory without a lock.
func lock(root string) (*os.File, error) {
	dir, err := os.Open(root)
	if err != nil {
		return nil, fmt.Errorf("opening the cache directory: %w", err)
	}
	err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		_ = dir.Close() // only opened
		return nil, fmt.Errorf("the cache directory %s is in use by another process", root)
	}
	return dir, nil
}

// Remove deletes all files of a task. Files that do not exist cause no error. A
// Reader that is open can still read the content. Errors: DISK_FAILED.
func (s *Store) Remove(id task.ID) error {
	return diskError("removing a task", s.disk.do("removing a task", func() error { return s.remove(id) }))
}

func (s *Store) remove(id task.ID) error {
	path := s.path(id)
	var errs []error
	// .meta and the journal are removed first: without them the other files are
	// leftovers, which sweep removes.
	for _, suffix := range []string{
		metaSuffix, partSuffix, metaSuffix + tempSuffix, md5Suffix, md5Suffix + tempSuffix, "",
	} {
		if err := os.Remove(path + suffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("removing the files of task %s: %w", id, err)
	}
	return nil
}

func (s *Store) path(id task.ID) string {
	return filepath.Join(s.root, string(id[:3]), string(id))
}

// replace writes a file atomically: a reader sees the old content or the new one. It
// does not call fsync, which would delay every download. If the power fails and the
// file is lost, the task is fetched again.
func replace(path string, data []byte) error {
	temp := path + tempSuffix
	if err := os.WriteFile(temp, data, fileMode); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
