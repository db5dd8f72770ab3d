package store

import (
	"context"
	"os"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Inventory returns all copies that are on disk, complete or partial, with what
// their .meta or journal contains. It leaves out copies whose .meta or journal
// cannot be read.
func (s *Store) Inventory(ctx context.Context) ([]task.Inventory, error) {
	dirs, err := run(s.disk, "reading the cache directory", func() ([]os.DirEntry, error) { return os.ReadDir(s.root) })
	if err != nil {
		return nil, diskError("reading the cache directory", err)
	}
	var all []task.Inventory
	for _, dir := range dirs {
		if !dir.IsDir() {
			continue
		}
		found, err := run(s.disk, "reading a directory of the cache", func() (map[task.ID]suffixes, error) {
			return s.tasksIn(dir.Name())
		})
		if err != nil {
			return nil, diskError("reading a directory of the cache", err)
		}
		for id, files := range found {
			if err := ctx.Err(); err != nil {
				return nil, context.Cause(ctx)
			}
			if item, ok := s.item(id, files); ok {
				all = append(all, item)
			}
		}
	}
	return all, nil
}

// item returns the inventory of one task, and false if there is no usable copy of it.
func (s *Store) item(id task.ID, files suffixes) (task.Inventory, bool) {
	suffix := partSuffix
	switch {
	case files[metaSuffix] && files[md5Suffix] && files[""]:
		suffix = metaSuffix
	case !files[partSuffix] || !files[""]:
		return task.Inventory{}, false
	}
	data, err := run(s.disk, "reading .meta or a journal", func() ([]byte, error) { return os.ReadFile(s.path(id) + suffix) })
	if err != nil {
		return task.Inventory{}, false
	}
	if suffix == partSuffix {
		version, pieces, err := decodeJournal(data)
		return task.Inventory{
			ID: id, URL: version.URL, Facts: version.Facts, Epoch: version.Epoch, Pieces: len(pieces),
		}, err == nil
	}
	meta, err := decodeMeta(data)
	if err != nil || !meta.Finish || !meta.Success || meta.TaskID != string(id) {
		return task.Inventory{}, false
	}
	facts := task.Facts{
		Length: meta.HTTPFileLen, PieceSize: meta.PieceSize, ETag: meta.ETag, LastModified: meta.LastModifiedHeader(),
	}
	return task.Inventory{
		ID: id, URL: meta.URL, Facts: facts, Pieces: int(piece.Count(facts.Length, facts.PieceSize)), Whole: true,
	}, true
}
