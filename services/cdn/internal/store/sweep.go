package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// sweep removes leftovers of a process that was killed: the files of tasks that have
// neither .meta nor content with a valid journal, which cannot be resumed. Nothing
// else would remove them if the task is never requested again. Files with other
// names are ignored.
func (s *Store) sweep() error {
	return s.each(func(id task.ID, files suffixes) error {
		switch {
		case files[metaSuffix]:
			if !files[partSuffix] {
				return nil
			}
			return os.Remove(s.path(id) + partSuffix) // the process was killed after it wrote .meta
		case files[partSuffix] && files[""]:
			data, err := os.ReadFile(s.path(id) + partSuffix)
			if err != nil {
				return fmt.Errorf("reading a journal: %w", err)
			}
			if _, _, err := decodeJournal(data); err == nil {
				return nil
			}
		}
		return s.remove(id)
	})
}

// suffixes is the set of files that exist of a task, by suffix.
type suffixes map[string]bool

// each calls do for every task that has files.
func (s *Store) each(do func(task.ID, suffixes) error) error {
	dirs, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("reading the cache directory: %w", err)
	}
	for _, dir := range dirs {
		if !dir.IsDir() {
			continue
		}
		found, err := s.tasksIn(dir.Name())
		if err != nil {
			return err
		}
		for id, files := range found {
			if err := do(id, files); err != nil {
				return err
			}
		}
	}
	return nil
}

// tasksIn returns the tasks that have files in one subdirectory of the cache.
func (s *Store) tasksIn(dir string) (map[task.ID]suffixes, error) {
	files, err := os.ReadDir(filepath.Join(s.root, dir))
	if err != nil {
		return nil, fmt.Errorf("reading a directory of the cache: %w", err)
	}
	found := make(map[task.ID]suffixes)
	for _, file := range files {
		name := file.Name()
		base, _, _ := strings.Cut(name, ".")
		id, err := task.ParseID(base)
		if err != nil || base[:3] != dir || !file.Type().IsRegular() {
			continue
		}
		switch suffix := name[len(base):]; suffix {
		case "", metaSuffix, partSuffix, md5Suffix, md5Suffix + tempSuffix, metaSuffix + tempSuffix:
			if found[id] == nil {
				found[id] = make(suffixes)
			}
			found[id][suffix] = true
		}
	}
	return found, nil
}
