package engine

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// removeEmpty takes a task out of the engine on which nobody works and tells its
// listeners why. The caller holds mu.
func (eng *Engine) removeEmpty(e *entry, why error) {
	delete(eng.entries, e.task.id)
	eng.gauge.Dec()
	e.task.fail(why, false)
	close(e.task.removed)
}

// removeEntry takes a task whose work has ended out of the engine and tells its
// listeners why, in this order: who asks again finds nothing of it. If it is to
// be copied since it began to leave, that begins.
func (eng *Engine) removeEntry(e *entry, why error, reportFailure bool) {
	t := e.task
	eng.closeFiles(t)
	eng.mu.Lock()
	old := e.replaced // the work may have ended before it let them go
	e.replaced = nil
	delete(eng.entries, t.id)
	eng.gauge.Dec()
	if e.copyAfterRemoval {
		eng.applyStanding(t.id, eng.standings[t.id])
	}
	eng.mu.Unlock()
	for _, o := range old {
		eng.closeFiles(o)
	}
	t.fail(why, reportFailure)
	close(t.removed)
}

func (eng *Engine) closeFiles(t *Task) {
	if err := t.closeFiles(); err != nil {
		eng.Logger.Warn("closing the files of a task", zap.String("task_id", string(t.id)), zap.Error(err))
	}
}

// Delete ends all work on the task, tells its listeners TASK_DELETED and
// removes its files. An unknown task is no error.
func (eng *Engine) Delete(ctx context.Context, id task.ID) error {
	return eng.delete(ctx, id, false)
}

// Discard is Delete, unless the task is being fetched as its owner or a record
// names this instance for it: it has become wanted.
func (eng *Engine) Discard(ctx context.Context, id task.ID) error {
	return eng.delete(ctx, id, true)
}

func (eng *Engine) delete(ctx context.Context, id task.ID, onlyUnwanted bool) error {
	for {
		e, callerRemoves, err := eng.markDeleted(id, onlyUnwanted)
		if err != nil {
			return err
		}
		if callerRemoves {
			return eng.removeFiles(e)
		}
		removed := e.task.removed
		select {
		case <-removed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if e.deleteAfterWork { // written before removed was closed
			return nil
		}
		// It left because it failed, and may have left an older copy on disk.
	}
}

// markDeleted makes a task leave: at the end of the work on it if there is some, else
// it is the caller's to remove. A task that is not in memory gets an entry, so
// that nobody begins to fetch it before its files are gone.
func (eng *Engine) markDeleted(id task.ID, onlyUnwanted bool) (e *entry, callerRemoves bool, err error) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	e = eng.entries[id]
	_, named := eng.standings[id]
	switch {
	case onlyUnwanted && named:
		return nil, false, rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "a record names this instance for the task")
	case e == nil:
		e = eng.addEntry(id)
	case e.removing:
		return e, false, nil
	case e.working && onlyUnwanted && e.goal.kind == owning:
		return nil, false, rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "the task is being fetched as its owner")
	case e.working:
		e.deleteAfterWork = true
		if e.cancel != nil {
			e.cancel(errDeleted())
		}
		return e, false, nil
	}
	e.removing = true
	return e, true, nil
}

// removeFiles removes the files of a task that is leaving.
func (eng *Engine) removeFiles(e *entry) error {
	eng.onDisk.evict(e.task.id)
	eng.closeFiles(e.task)
	err := eng.Files.Remove(e.task.id)
	eng.removeEntry(e, errDeleted(), false)
	return err
}
