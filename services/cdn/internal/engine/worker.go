package engine

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// goalKind is what is done about a task.
type goalKind int

const (
	idle    goalKind = iota
	owning           // fetching it as its owner
	copying          // copying it as a replica
	reading          // reading a part from disk that nobody makes more of
)

// goal is what is to be done about a task.
type goal struct {
	kind goalKind
	job  fetch.Job // of owning
	from string    // whom copying begins with
}

// entry is a task's place in the engine; guarded by Engine.mu.
type entry struct {
	task             *Task
	goal             goal
	generation       int                     // grows with every change of goal
	working          bool                    // a worker is at it
	cancel           context.CancelCauseFunc // ends what the worker is at, nil for nothing
	checked          bool                    // a whole one: its source or its owner said that it is right
	deleteAfterWork  bool                    // it is to leave when the work ends
	removing         bool                    // its files are being removed
	standingChanged  chan struct{}           // that the standing is another one, for a copy under way
	copyAfterRemoval bool                    // it is to be copied once it has left
	replaced         []*Task                 // whose place it has taken, to be let go by the worker
}

// errGoalChanged ends work that is not wanted any more.
var errGoalChanged = errors.New("something else is to be done")

// addEntry makes an entry. The caller holds mu.
func (eng *Engine) addEntry(id task.ID) *entry {
	e := &entry{task: newTask(id, 0, eng.Reporter), standingChanged: make(chan struct{}, 1)}
	eng.entries[id] = e
	eng.gauge.Inc()
	return e
}

// setGoal changes what is to be done, and has it done. The caller holds mu.
func (eng *Engine) setGoal(e *entry, g goal) {
	e.goal = g
	e.generation++
	if e.cancel != nil {
		e.cancel(errGoalChanged)
	}
	if !e.working && g.kind != idle && !eng.stopped && eng.workCtx != nil {
		e.working = true
		e.task.setActive(true)
		eng.workers.Go(func() { eng.runWorker(e) })
	}
}

// replaceTask puts a new task in the place of one that is of another version; what is
// to be done about it is set next. The caller holds mu.
func (eng *Engine) replaceTask(e *entry) {
	old := e.task
	epoch, owner, _, _ := old.state()
	e.task = newTask(old.id, epoch, eng.Reporter)
	if owner {
		e.task.becomeOwner(epoch)
	}
	e.task.setActive(e.working)
	e.checked = false
	old.fail(errReplaced(), false)
	close(old.removed)
	eng.onDisk.evict(old.id)
	e.replaced = append(e.replaced, old)
}

// runWorker does what is to be done about a task until nothing is.
func (eng *Engine) runWorker(e *entry) {
	for {
		eng.mu.Lock()
		t, g, generation := e.task, e.goal, e.generation
		ctx, cancel := context.WithCancelCause(eng.workCtx)
		e.cancel = cancel
		old := e.replaced
		e.replaced = nil
		if e.deleteAfterWork {
			cancel(errDeleted())
		}
		eng.mu.Unlock()
		for _, o := range old {
			eng.closeFiles(o)
		}
		err := eng.execute(ctx, t, g, e.standingChanged)
		cause := context.Cause(ctx)
		cancel(nil)
		if !eng.handleResult(e, t, g, generation, err, cause) {
			return
		}
	}
}

// execute does one thing to its end.
func (eng *Engine) execute(ctx context.Context, t *Task, g goal, standingChanged <-chan struct{}) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, _, whole, _ := t.state(); whole {
		return nil // what was done before has made it so
	}
	switch g.kind {
	case owning:
		job := g.job
		job.Held, job.Recorded = t.heldPart(), eng.standingOf(t.id).Facts
		return eng.Fetcher.Fetch(ctx, job, t)
	case copying:
		held := t.heldPart()
		if held == nil && eng.hasWholeCopy(t.id) {
			return errOnDisk
		}
		return eng.Fetcher.Copy(ctx, fetch.CopyJob{
			ID: t.id, Held: held, StandingChanged: standingChanged, Standing: func() task.Standing { return eng.standingOf(t.id) },
		}, t)
	case reading:
		if t.heldPart() != nil {
			return nil // a copy that was ended has told it, and whoever goes on with it tells the rest
		}
		return eng.Fetcher.LoadPart(ctx, t.id, t)
	default:
		return nil
	}
}

// errOnDisk is a task to copy of which a whole copy is on disk.
var errOnDisk = errors.New("a whole copy is on disk")

// hasWholeCopy tells whether a whole copy is on disk that fits the record.
func (eng *Engine) hasWholeCopy(id task.ID) bool {
	saved, err := eng.Files.Load(id)
	if err != nil {
		return false
	}
	s := eng.standingOf(id)
	return s.Facts.PieceSize == 0 || s.Facts.Same(saved.Facts())
}

func (eng *Engine) standingOf(id task.ID) task.Standing {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	return eng.standings[id]
}

// handleResult draws the conclusion from what one piece of work came to, and tells
// whether there is more to do.
func (eng *Engine) handleResult(e *entry, t *Task, g goal, generation int, err, cause error) (more bool) {
	eng.mu.Lock()
	e.cancel = nil
	superseded := e.generation != generation
	switch {
	case e.deleteAfterWork:
		e.working, e.removing = false, true
		eng.mu.Unlock()
		if err := eng.removeFiles(e); err != nil {
			eng.Logger.Warn("removing the files of a deleted task", zap.String("task_id", string(t.id)), zap.Error(err))
		}
		return false
	case err == nil && !superseded:
		return eng.becomeIdle(e, g)
	case eng.stopped:
		e.working = false
		e.task.fail(errStopping(), false)
		eng.mu.Unlock()
		return false
	case errors.Is(err, fetch.ErrOtherVersion), superseded && t.isWithdrawn():
		if e.task == t {
			eng.replaceTask(e)
		}
		eng.mu.Unlock()
		return true
	case superseded:
		eng.mu.Unlock()
		return true
	case cause == nil && rpcerr.ReasonOf(err) == rpcerr.StaleEpoch:
		return eng.becomeReplica(e)
	}
	e.working, e.removing = false, true
	eng.mu.Unlock()
	eng.handleFailure(e, g, err)
	return false
}

// becomeIdle is the end of work that was done. The caller holds mu, which becomeIdle
// releases.
func (eng *Engine) becomeIdle(e *entry, g goal) bool {
	defer eng.mu.Unlock()
	e.goal, e.working = goal{}, false
	_, _, whole, version := e.task.state()
	e.checked = whole && g.kind != reading
	if eng.stopped {
		e.task.fail(errStopping(), false)
		return false
	}
	if s, known := eng.standings[e.task.id]; known && s.Mine {
		e.task.correctRecord(s) // it became whole after it was to be the owner
	}
	if !whole && version == nil { // it was not wanted before anything came
		eng.removeEmpty(e, errRetry())
		return false
	}
	e.task.setActive(false)
	return false
}

// becomeReplica makes a replica of an owner that has heard that it is none. The
// caller holds mu, which becomeReplica releases.
func (eng *Engine) becomeReplica(e *entry) bool {
	s, known := eng.standings[e.task.id]
	epoch, _, _, _ := e.task.state()
	e.task.stepDown(epoch)
	if known && !s.Mine {
		e.goal = goal{kind: copying, from: s.Owner}
		eng.mu.Unlock()
		return true
	}
	return eng.becomeIdle(e, goal{kind: reading}) // until the record's news comes
}

// handleFailure is the end of work that failed.
func (eng *Engine) handleFailure(e *entry, g goal, err error) {
	t := e.task
	eng.onDisk.evict(t.id) // the work may have removed the copy on disk
	switch reason := rpcerr.ReasonOf(err); {
	case errors.Is(err, errOnDisk):
		eng.removeEntry(e, errRetry(), false)
		return
	case errors.Is(err, store.ErrAbsent):
		eng.removeEntry(e, errRetry(), false)
		return
	case reason == rpcerr.DiskFull, reason == rpcerr.DiskFailed:
		eng.Logger.Error("the disk does not take the task", zap.String("task_id", string(t.id)), zap.Error(err))
	default:
		eng.logFailure(t, err)
	}
	eng.removeEntry(e, err, g.kind == owning)
	if reason := rpcerr.ReasonOf(err); reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed {
		eng.Losses.Lost(t.id, err)
	}
}

func (eng *Engine) logFailure(t *Task, err error) {
	log := eng.Logger.With(zap.String("task_id", string(t.id)), zap.Error(err))
	switch rpcerr.ReasonOf(err) {
	case rpcerr.SourceNotFound, rpcerr.SourceAuthRequired:
		log.Info("the task cannot be fetched")
	case rpcerr.SourceUnreachable, rpcerr.SourceBroken:
		log.Warn("the task cannot be fetched")
	default:
		log.Error("the task cannot be fetched")
	}
}
