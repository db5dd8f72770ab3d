package engine

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// maxOnDisk is the number of loaded tasks that are kept, so that the next request of a
// peer does not read the metadata again.
const maxOnDisk = 512

// onDisk loads and caches the whole copies on disk, so that they can be served before
// their tasks are seeded, when the source was not asked yet whether they are current. A
// cached task may be outdated: if its file was removed since, Task.Open fails.
type onDisk struct {
	files    *store.Store
	reporter Reporter // for tasks that get an entry later
	loaded   *lru.Cache[task.ID, *Task]
	loads    singleflight.Group
}

func newOnDisk(files *store.Store, reporter Reporter) (*onDisk, error) {
	loaded, err := lru.New[task.ID, *Task](maxOnDisk)
	if err != nil {
		return nil, fmt.Errorf("creating the cache of tasks on disk: %w", err)
	}
	return &onDisk{files: files, reporter: reporter, loaded: loaded}, nil
}

// find returns the task with its whole copy on disk. It returns nil if there is none.
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
		return nil // there is no copy, or it is damaged; a fetch logs which
	}
	return found.(*Task) //nolint:forcetypeassert // the function above returns a *Task
}

func (o *onDisk) evict(id task.ID) { o.loaded.Remove(id) }
