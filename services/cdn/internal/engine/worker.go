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

// goalKind is the kind of work that a task needs. The package comment shows the
// transitions.
type goalKind int

const (
	idle    goalKind = iota
	owning           // fetch the task as its owner
	copying          // copy the task as a replica
	reading          // load a partial copy from disk and leave it as it is
)

// goal is the work that a task needs, with its parameters.
type goal struct {
	kind goalKind
	job  fetch.Job // for owning
	from string    // for copying: the owner, which is followed
}

// entry holds a task and the state of its work. Its fields are guarded by Engine.mu.
//
//	idle --setGoal--> working --the goal is reached-----------------> idle
//	                     |-----the work fails-----------------------> removing --> no entry
//	                     +-----markDeleted--> deleteAfterWork ------> removing --> no entry
//	idle --markDeleted, or Lost-------------------------------------> removing --> no entry
type entry struct {
	task             *Task
	goal             goal
	generation       int                     // counts the calls of setGoal
	working          bool                    // a worker runs
	cancel           context.CancelCauseFunc // stops the current work; nil between two pieces of work
	checked          bool                    // the copy is whole, and its source or its owner has confirmed the version
	deleteAfterWork  bool                    // the worker removes the task when it has stopped
	removing         bool                    // the files are being closed or removed, then the entry is removed
	standingChanged  chan struct{}           // notifies a copy under way of a changed standing
	copyAfterRemoval bool                    // the removal is followed by a new entry that copies the task
	replaced         []*Task                 // earlier versions of the task, whose files the worker closes
}

// errGoalChanged stops the current work because the goal has changed.
var errGoalChanged = errors.New("the goal of the task has changed")

// addEntry adds an entry with an empty task. The caller holds mu.
func (eng *Engine) addEntry(id task.ID) *entry {
	e := &entry{task: newTask(id, 0, eng.Reporter), standingChanged: make(chan struct{}, 1)}
	eng.entries[id] = e
	eng.gauge.Inc()
	return e
}

// setGoal changes the goal. It stops the current work, and starts a worker if none runs
// and the goal needs one. The caller holds mu.
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

// replaceTask replaces the task of an entry by an empty one, because the next goal is
// another version of the source. The caller holds mu and sets the goal afterwards.
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

// runWorker works on the goals of an entry until the entry is idle or removed.
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

// execute works on one goal and blocks until the goal is reached, the work fails, or ctx
// ends.
func (eng *Engine) execute(ctx context.Context, t *Task, g goal, standingChanged <-chan struct{}) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, _, whole, _ := t.state(); whole {
		return nil // the work on an earlier goal has completed it
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
			// The pieces were loaded by work on an earlier goal. If that was interrupted,
			// the next fetch or copy loads the remaining ones.
			return nil
		}
		return eng.Fetcher.LoadPart(ctx, t.id, t)
	default:
		return nil
	}
}

// errOnDisk is returned for a task that need not be copied, because a whole copy is on
// disk. Its entry is removed, and onDisk serves the copy.
var errOnDisk = errors.New("a whole copy is on disk")

// hasWholeCopy reports whether a whole copy of the recorded version is on disk.
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

// handleResult processes the result of the work on a goal. It returns true if the worker
// must continue with the current goal of the entry.
func (eng *Engine) handleResult(e *entry, t *Task, g goal, generation int, err, cause error) (more bool) {
	eng.mu.Lock()
	e.cancel = nil
	superseded := e.generation != generation
	switch {
	case e.deleteAfterWork:
		e.working, e.removing = false, true
		eng.mu.Unlock()
		if err := eng.removeFiles(e); err != nil {
			eng.Logger.Warn("cannot remove the files of a deleted task", zap.String("task_id", string(t.id)), zap.Error(err))
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

// becomeIdle ends the worker of an entry whose goal is reached. It returns false. The
// caller holds mu, and becomeIdle releases it.
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
		e.task.correctRecord(s) // a copy was completed after this instance became the owner
	}
	if !whole && version == nil { // the goal was withdrawn before the version was known
		eng.removeEmpty(e, errRetry())
		return false
	}
	e.task.setActive(false)
	return false
}

// becomeReplica handles a fetch that ended because another CDN owns the task. It changes
// the goal to copying, or ends the worker until the record arrives that names the new
// owner. It returns true if the worker must continue. The caller holds mu, and
// becomeReplica releases it.
func (eng *Engine) becomeReplica(e *entry) bool {
	s, known := eng.standings[e.task.id]
	epoch, _, _, _ := e.task.state()
	e.task.stepDown(epoch)
	if known && !s.Mine {
		e.goal = goal{kind: copying, from: s.Owner}
		eng.mu.Unlock()
		return true
	}
	return eng.becomeIdle(e, goal{kind: reading})
}

// handleFailure removes the entry of a task whose work has failed, and logs the failure.
func (eng *Engine) handleFailure(e *entry, g goal, err error) {
	t := e.task
	eng.onDisk.evict(t.id) // the fetch may have removed the copy on disk
	switch reason := rpcerr.ReasonOf(err); {
	case errors.Is(err, errOnDisk):
		eng.removeEntry(e, errRetry(), false)
		return
	case errors.Is(err, store.ErrAbsent):
		eng.removeEntry(e, errRetry(), false)
		return
	case reason == rpcerr.DiskFull, reason == rpcerr.DiskFailed:
		eng.Logger.Error("cannot store the task on disk; resigning from it", zap.String("task_id", string(t.id)), zap.Error(err))
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
		log.Info("the source refuses the task; removing it from memory")
	case rpcerr.SourceUnreachable, rpcerr.SourceBroken:
		log.Warn("the source is unreachable or broken; removing the task from memory")
	default:
		log.Error("fetching or copying the task failed; removing it from memory")
	}
}
