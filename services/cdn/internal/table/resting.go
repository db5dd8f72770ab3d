package table

import (
	"fmt"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// mostResting is how many tasks are kept that were read from disk only to be
// served, so that a peer's next piece does not have them read again.
const mostResting = 512

// resting is the whole tasks on disk that nobody has asked to seed since the
// start: they can be served, but their sources have not been asked whether
// they are still right. Its contents may be out of date: opening tells.
type resting struct {
	files    *store.Store
	reporter Reporter // for those that become tasks of the table
	known    *lru.Cache[task.ID, *Task]
	loads    singleflight.Group
}

func newResting(files *store.Store, reporter Reporter) (*resting, error) {
	known, err := lru.New[task.ID, *Task](mostResting)
	if err != nil {
		return nil, fmt.Errorf("making the memory of tasks on disk: %w", err)
	}
	return &resting{files: files, reporter: reporter, known: known}, nil
}

// find gives the task as it is on disk, or nil.
func (r *resting) find(id task.ID) *Task {
	if t, ok := r.known.Get(id); ok {
		return t
	}
	found, err, _ := r.loads.Do(string(id), func() (any, error) {
		saved, err := r.files.Load(id)
		if err != nil {
			return nil, err
		}
		t := newTask(id, 0, r.reporter)
		t.Settle(saved.Facts())
		t.Begin(saved.Content)
		t.Land(saved.Pieces...)
		t.Finish(saved.Result)
		r.known.Add(id, t)
		return t, nil
	})
	if err != nil {
		return nil // not here, or not fit to be served; a fetch would say which
	}
	return found.(*Task) //nolint:forcetypeassert // Do gives what the function above gave
}

func (r *resting) forget(id task.ID) { r.known.Remove(id) }
