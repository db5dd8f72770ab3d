package engine

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// removeEmpty removes the entry of a task that has no worker and no files, and ends the
// task with an error. The caller holds mu.
func (eng *Engine) removeEmpty(e *entry, why error) {
	delete(eng.entries, e.task.id)
	eng.gauge.Dec()
	e.task.fail(why, false)
	close(e.task.removed)
}

// removeEntry removes the entry of a task whose worker has ended, and then ends the
// task with an error. In this order a listener that gets the error and retries does not
// find the old entry. If a record has made this instance a replica of the task since the
// removal began, removeEntry starts to copy the task.
func (eng *Engine) removeEntry(e *entry, why error, reportFailure bool) {
	t := e.task
	eng.closeFiles(t)
	eng.mu.Lock()
	old := e.replaced // the worker may have ended before it closed their files
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
		eng.Logger.Warn("cannot close the files of a task", zap.String("task_id", string(t.id)), zap.Error(err))
	}
}

// Delete stops the work on a task, ends it with TASK_DELETED for its listeners, and
// removes its files. It returns nil if there is no such task.
func (eng *Engine) Delete(ctx context.Context, id task.ID) error {
	return eng.delete(ctx, id, false)
}

// Discard deletes a task that the registry does not need here. It returns STALE_EPOCH
// if the task is needed now: a record names this instance, or the task is being fetched
// as its owner.
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
		if e.deleteAfterWork { // set before removed was closed
			return nil
		}
		// The entry was removed for another reason, such as a failed fetch, so files
		// may still be on disk.
	}
}

// markDeleted begins to delete a task. If a worker runs, it is stopped and removes the
// files. Otherwise callerRemoves is true, and the caller has to remove them. A task
// without an entry gets one, so that no fetch starts before its files are removed.
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

// removeFiles removes the files of a task and then its entry, whose removing is set.
func (eng *Engine) removeFiles(e *entry) error {
	eng.onDisk.evict(e.task.id)
	eng.closeFiles(e.task)
	err := eng.Files.Remove(e.task.id)
	eng.removeEntry(e, errDeleted(), false)
	return err
}
