package store

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// sweep removes what a process left half-made when it was killed: the files of
// tasks that have no .meta. Nobody may ever ask for such a task again, and then
// nothing else would give its room back. Files of other names are not ours.
func (s *Store) sweep() error {
	dirs, err := os.ReadDir(s.root)
	if err != nil {
		return fmt.Errorf("reading the cache directory: %w", err)
	}
	for _, dir := range dirs {
		if !dir.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(s.root, dir.Name()))
		if err != nil {
			return fmt.Errorf("reading a directory of the cache: %w", err)
		}
		for id := range halfMade(dir.Name(), files) {
			if err := s.Remove(id); err != nil {
				return err
			}
		}
	}
	return nil
}

// halfMade gives the tasks in a directory of the cache that have no .meta.
func halfMade(dir string, files []os.DirEntry) map[task.ID]bool {
	found, whole := make(map[task.ID]bool), make(map[task.ID]bool)
	for _, file := range files {
		name, suffix, _ := strings.Cut(file.Name(), ".")
		id, err := task.ParseID(name)
		if err != nil || name[:3] != dir || !file.Type().IsRegular() {
			continue
		}
		switch "." + suffix {
		case metaSuffix:
			whole[id] = true
		case ".", md5Suffix, md5Suffix + tempSuffix, metaSuffix + tempSuffix:
			found[id] = true
		}
	}
	for id := range whole {
		delete(found, id)
	}
	return found
}
