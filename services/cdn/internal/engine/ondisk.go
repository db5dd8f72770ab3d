package engine

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// maxOnDisk is how many tasks are kept that were read from disk only to be
// served, so that a peer's next piece does not have them read again.
const maxOnDisk = 512

// onDisk is the whole tasks on disk that nobody has asked to seed since the
// start: they can be served, but their sources have not been asked whether
// they are still right. Its contents may be out of date: opening tells.
type onDisk struct {
	files    *store.Store
	reporter Reporter // for those that become tasks of the engine
	loaded   *lru.Cache[task.ID, *Task]
	loads    singleflight.Group
}

func newOnDisk(files *store.Store, reporter Reporter) (*onDisk, error) {
	loaded, err := lru.New[task.ID, *Task](maxOnDisk)
	if err != nil {
		return nil, fmt.Errorf("making the cache of tasks on disk: %w", err)
	}
	return &onDisk{files: files, reporter: reporter, loaded: loaded}, nil
}

// find gives the task as it is on disk, or nil.
func (o *onDisk) find(id task.ID) *Task {
	if t, ok := o.loaded.Get(id); ok {
		return t
	}
	found, err, _ := o.loads.Do(string(id), func() (any, error) {
		saved, err := o.files.Load(id)
		if err != nil {
			return nil, err
		}
		t := newTask(id, 0, o.reporter)
		t.Settle(saved.Facts())
		t.Begin(saved.Content)
		t.Land(saved.Pieces...)
		t.Finish(saved.Result)
		o.loaded.Add(id, t)
		return t, nil
	})
	if err != nil {
		return nil // not here, or not fit to be served; a fetch would say which
	}
	return found.(*Task) //nolint:forcetypeassert // Do gives what the function above gave
}

func (o *onDisk) evict(id task.ID) { o.loaded.Remove(id) }
