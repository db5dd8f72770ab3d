// Package store is the cache directory: where the files of a task are, what
// is in them, when they count as whole. The layout is Dragonfly v1's, so that
// either finds what the other left. It knows nothing of sources, and it does
// not decide what is kept.
//
// A task has three files in <home>/repo/download/<first 3 of id>/: <id> is the
// wrapped pieces, piece n at n times the piece size; <id>.md5 is a digest for
// every piece, the MD5 of the content and a checksum over both; <id>.meta is
// JSON. They are written in this order, and .meta says "finish" and "success".
// While a task is not whole it has a journal beside its content, <id>.part: what
// it is a part of, then a line for every piece. Without .meta and journal the
// others are leftovers.
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
	// tempSuffix marks a file that has not got its name yet.
	tempSuffix = ".tmp"

	dirMode  = 0o755
	fileMode = 0o644
)

// ErrAbsent is a task of which no whole copy is on disk.
var ErrAbsent = errors.New("not on disk")

// Store is one cache directory. Its methods may be called at the same time for
// different tasks; for one task the caller keeps writers apart.
type Store struct {
	root string
	// lock is the open root, locked for as long as the Store is in use.
	lock *os.File
	disk *guard
}

// Open makes the cache directory under home, if it is not there, and makes
// sure that it can be written and that no other process writes it: two of them
// would take each other's half-made files for leftovers. A disk on which one
// operation takes longer than patience counts as failed. The caller closes it.
func Open(home string, patience time.Duration) (*Store, error) {
	root := filepath.Join(home, "repo", "download")
	if err := os.MkdirAll(root, dirMode); err != nil {
		return nil, fmt.Errorf("making the cache directory: %w", err)
	}
	probe, err := os.CreateTemp(root, "probe")
	if err != nil {
		return nil, fmt.Errorf("trying the cache directory: %w", err)
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return nil, fmt.Errorf("trying the cache directory: %w", err)
	}
	held, err := lock(root)
	if err != nil {
		return nil, err
	}
	s := &Store{root: root, lock: held, disk: newGuard(patience)}
	if err := s.sweep(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close lets another process use the directory. On a disk that hangs that comes
// with the end of this process, which is nothing to complain of.
func (s *Store) Close() error {
	if err := s.disk.release(s.lock); err != nil && !Hangs(err) {
		return fmt.Errorf("closing the cache directory: %w", err)
	}
	return nil
}

// lock takes the directory until the file it gives is closed, or the process
// ends. A file system that has no such locks goes without.
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

// Remove deletes all files of a task. What is not there is no error; a reader
// that has the content open keeps it. Errors: DISK_FAILED.
func (s *Store) Remove(id task.ID) error {
	return diskError("removing a task", s.disk.do("removing a task", func() error { return s.remove(id) }))
}

func (s *Store) remove(id task.ID) error {
	path := s.path(id)
	var errs []error
	// .meta and journal go first: without them the rest is no copy any more.
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

// replace gives a file its content in one step, so that a reader sees all of
// it or what was there before. It is not forced to disk: losing the file with
// the power costs a fetch, syncing it would cost every download.
func replace(path string, data []byte) error {
	temp := path + tempSuffix
	if err := os.WriteFile(temp, data, fileMode); err != nil {
		return err
	}
	return os.Rename(temp, path)
}
