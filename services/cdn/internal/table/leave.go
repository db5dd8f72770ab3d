package table

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// drop takes a task out of the table on which nobody works and tells its
// listeners why. The caller holds mu.
func (tb *Table) drop(e *entry, why error) {
	delete(tb.entries, e.task.id)
	tb.gauge.Dec()
	e.task.fail(why, false)
	close(e.task.gone)
}

// leave takes a task whose work has ended out of the table and tells its
// listeners why, in this order: who asks again finds nothing of it. If it is to
// be copied since it began to leave, that begins.
func (tb *Table) leave(e *entry, why error, tellRegistry bool) {
	t := e.task
	tb.shut(t)
	tb.mu.Lock()
	old := e.old // the work may have ended before it let them go
	e.old = nil
	delete(tb.entries, t.id)
	tb.gauge.Dec()
	if e.again {
		tb.assign(t.id, tb.standings[t.id])
	}
	tb.mu.Unlock()
	for _, o := range old {
		tb.shut(o)
	}
	t.fail(why, tellRegistry)
	close(t.gone)
}

func (tb *Table) shut(t *Task) {
	if err := t.shut(); err != nil {
		tb.Logger.Warn("closing the files of a task", zap.String("task_id", string(t.id)), zap.Error(err))
	}
}

// Delete ends all work on the task, tells its listeners TASK_DELETED and
// removes its files. An unknown task is no error.
func (tb *Table) Delete(ctx context.Context, id task.ID) error {
	return tb.delete(ctx, id, false)
}

// Discard is Delete, unless the task is being fetched as its owner or a record
// names this instance for it: it has become wanted.
func (tb *Table) Discard(ctx context.Context, id task.ID) error {
	return tb.delete(ctx, id, true)
}

func (tb *Table) delete(ctx context.Context, id task.ID, sparing bool) error {
	for {
		e, mine, err := tb.doom(id, sparing)
		if err != nil {
			return err
		}
		if mine {
			return tb.remove(e)
		}
		gone := e.task.gone
		select {
		case <-gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if e.doomed { // written before gone was closed
			return nil
		}
		// It left because it failed, and may have left an older copy on disk.
	}
}

// doom makes a task leave: at the end of the work on it if there is some, else
// it is the caller's to remove. A task that is not in memory gets an entry, so
// that nobody begins to fetch it before its files are gone.
func (tb *Table) doom(id task.ID, sparing bool) (e *entry, mine bool, err error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	e = tb.entries[id]
	_, named := tb.standings[id]
	switch {
	case sparing && named:
		return nil, false, rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "a record names this instance for the task")
	case e == nil:
		e = tb.add(id)
	case e.leaving:
		return e, false, nil
	case e.busy && sparing && e.want.kind == owning:
		return nil, false, rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "the task is being fetched as its owner")
	case e.busy:
		e.doomed = true
		if e.cancel != nil {
			e.cancel(errDeleted())
		}
		return e, false, nil
	}
	e.leaving = true
	return e, true, nil
}

// remove removes the files of a task that is leaving.
func (tb *Table) remove(e *entry) error {
	tb.resting.forget(e.task.id)
	tb.shut(e.task)
	err := tb.Files.Remove(e.task.id)
	tb.leave(e, errDeleted(), false)
	return err
}
