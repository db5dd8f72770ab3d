package table

import (
	"context"
	"errors"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// kind is what is done about a task.
type kind int

const (
	idle    kind = iota
	owning       // fetching it as its owner
	copying      // copying it as a replica
	reading      // reading a part from disk that nobody makes more of
)

// want is what is to be done about a task.
type want struct {
	kind kind
	job  fetch.Job // of owning
	from string    // whom copying begins with
}

// entry is a task's place in the table; guarded by Table.mu.
type entry struct {
	task    *Task
	want    want
	turn    int                     // grows with every change of want
	busy    bool                    // a worker is at it
	cancel  context.CancelCauseFunc // ends what the worker is at, nil for nothing
	checked bool                    // a whole one: its source or its owner said that it is right
	doomed  bool                    // it is to leave when the work ends
	leaving bool                    // its files are being removed
	news    chan struct{}           // that the standing is another one, for a copy under way
	again   bool                    // it is to be copied once it has left
	old     []*Task                 // whose place it has taken, to be let go by the worker
}

// errChanged ends work that is not wanted any more.
var errChanged = errors.New("something else is to be done")

// add makes an entry. The caller holds mu.
func (tb *Table) add(id task.ID) *entry {
	e := &entry{task: newTask(id, 0, tb.Reporter), news: make(chan struct{}, 1)}
	tb.entries[id] = e
	tb.gauge.Inc()
	return e
}

// set changes what is to be done, and has it done. The caller holds mu.
func (tb *Table) set(e *entry, w want) {
	e.want = w
	e.turn++
	if e.cancel != nil {
		e.cancel(errChanged)
	}
	if !e.busy && w.kind != idle && !tb.stopped && tb.base != nil {
		e.busy = true
		e.task.activate(true)
		tb.workers.Go(func() { tb.work(e) })
	}
}

// renew puts a new task in the place of one that is of another version; what is
// to be done about it is set next. The caller holds mu.
func (tb *Table) renew(e *entry) {
	old := e.task
	epoch, owner, _, _ := old.stands()
	e.task = newTask(old.id, epoch, tb.Reporter)
	if owner {
		e.task.own(epoch)
	}
	e.task.activate(e.busy)
	e.checked = false
	old.fail(errReplaced(), false)
	close(old.gone)
	tb.resting.forget(old.id)
	e.old = append(e.old, old)
}

// work does what is to be done about a task until nothing is.
func (tb *Table) work(e *entry) {
	for {
		tb.mu.Lock()
		t, w, turn := e.task, e.want, e.turn
		ctx, cancel := context.WithCancelCause(tb.base)
		e.cancel = cancel
		old := e.old
		e.old = nil
		if e.doomed {
			cancel(errDeleted())
		}
		tb.mu.Unlock()
		for _, o := range old {
			tb.shut(o)
		}
		err := tb.do(ctx, t, w, e.news)
		cause := context.Cause(ctx)
		cancel(nil)
		if !tb.settle(e, t, w, turn, err, cause) {
			return
		}
	}
}

// do does one thing to its end.
func (tb *Table) do(ctx context.Context, t *Task, w want, news <-chan struct{}) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if _, _, whole, _ := t.stands(); whole {
		return nil // what was done before has made it so
	}
	switch w.kind {
	case owning:
		job := w.job
		job.Held, job.Recorded = t.held(), tb.standing(t.id).Facts
		return tb.Fetcher.Fetch(ctx, job, t)
	case copying:
		held := t.held()
		if held == nil && tb.rests(t.id) {
			return errRests
		}
		return tb.Fetcher.Copy(ctx, fetch.CopyJob{
			ID: t.id, Held: held, News: news, Standing: func() task.Standing { return tb.standing(t.id) },
		}, t)
	case reading:
		if t.held() != nil {
			return nil // a copy that was ended has told it, and whoever goes on with it tells the rest
		}
		return tb.Fetcher.Revive(ctx, t.id, t)
	default:
		return nil
	}
}

// errRests is a task to copy of which a whole copy is on disk.
var errRests = errors.New("a whole copy is on disk")

// rests tells whether a whole copy is on disk that fits the record.
func (tb *Table) rests(id task.ID) bool {
	saved, err := tb.Files.Load(id)
	if err != nil {
		return false
	}
	s := tb.standing(id)
	return s.Facts.PieceSize == 0 || s.Facts.Same(saved.Facts())
}

func (tb *Table) standing(id task.ID) task.Standing {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	return tb.standings[id]
}

// settle draws the conclusion from what one piece of work came to, and tells
// whether there is more to do.
func (tb *Table) settle(e *entry, t *Task, w want, turn int, err, cause error) (more bool) {
	tb.mu.Lock()
	e.cancel = nil
	turned := e.turn != turn
	switch {
	case e.doomed:
		e.busy, e.leaving = false, true
		tb.mu.Unlock()
		if err := tb.remove(e); err != nil {
			tb.Logger.Warn("removing the files of a deleted task", zap.String("task_id", string(t.id)), zap.Error(err))
		}
		return false
	case err == nil && !turned:
		return tb.rest(e, w)
	case tb.stopped:
		e.busy = false
		e.task.fail(errStopping(), false)
		tb.mu.Unlock()
		return false
	case errors.Is(err, fetch.ErrOtherVersion), turned && t.spent():
		if e.task == t {
			tb.renew(e)
		}
		tb.mu.Unlock()
		return true
	case turned:
		tb.mu.Unlock()
		return true
	case cause == nil && rpcerr.ReasonOf(err) == rpcerr.StaleEpoch:
		return tb.standDown(e)
	}
	e.busy, e.leaving = false, true
	tb.mu.Unlock()
	tb.ended(e, w, err)
	return false
}

// rest is the end of work that was done. The caller holds mu, which rest
// releases.
func (tb *Table) rest(e *entry, w want) bool {
	defer tb.mu.Unlock()
	e.want, e.busy = want{}, false
	_, _, whole, version := e.task.stands()
	e.checked = whole && w.kind != reading
	if tb.stopped {
		e.task.fail(errStopping(), false)
		return false
	}
	if s, known := tb.standings[e.task.id]; known && s.Mine {
		e.task.correct(s) // it became whole after it was to be the owner
	}
	if !whole && version == nil { // it was not wanted before anything came
		tb.drop(e, errAgain())
		return false
	}
	e.task.activate(false)
	return false
}

// standDown makes a replica of an owner that has heard that it is none. The
// caller holds mu, which standDown releases.
func (tb *Table) standDown(e *entry) bool {
	s, known := tb.standings[e.task.id]
	epoch, _, _, _ := e.task.stands()
	e.task.standDown(epoch)
	if known && !s.Mine {
		e.want = want{kind: copying, from: s.Owner}
		tb.mu.Unlock()
		return true
	}
	return tb.rest(e, want{kind: reading}) // until the record's news comes
}

// ended is the end of work that failed.
func (tb *Table) ended(e *entry, w want, err error) {
	t := e.task
	tb.resting.forget(t.id) // the work may have removed the copy on disk
	switch reason := rpcerr.ReasonOf(err); {
	case errors.Is(err, errRests):
		tb.leave(e, errAgain(), false)
		return
	case errors.Is(err, store.ErrAbsent):
		tb.leave(e, errAgain(), false)
		return
	case reason == rpcerr.DiskFull, reason == rpcerr.DiskFailed:
		tb.Logger.Error("the disk does not take the task", zap.String("task_id", string(t.id)), zap.Error(err))
	default:
		tb.logFailure(t, err)
	}
	tb.leave(e, err, w.kind == owning)
	if reason := rpcerr.ReasonOf(err); reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed {
		tb.Losses.Lost(t.id, err)
	}
}

func (tb *Table) logFailure(t *Task, err error) {
	log := tb.Logger.With(zap.String("task_id", string(t.id)), zap.Error(err))
	switch rpcerr.ReasonOf(err) {
	case rpcerr.SourceNotFound, rpcerr.SourceAuthRequired:
		log.Info("the task cannot be fetched")
	case rpcerr.SourceUnreachable, rpcerr.SourceBroken:
		log.Warn("the task cannot be fetched")
	default:
		log.Error("the task cannot be fetched")
	}
}
