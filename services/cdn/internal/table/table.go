// Package table is the tasks that the CDN has in memory. It makes sure that a
// task is fetched once however many ask, that a fetch ends when the task is
// deleted or the service stops, and that a task that failed is forgotten. How
// a task is fetched, and how listeners are told, is not known here.
//
// A task in the table is running until its fetch ends, then whole. It leaves
// the table when the fetch fails or it is deleted: it is leaving while its
// files are removed, and whoever asks for it in that time waits and begins anew.
package table

import (
	"context"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/report"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Fetcher makes a task whole.
type Fetcher interface {
	// Fetch blocks until it is, or until it failed, and tells sink on the way.
	Fetch(ctx context.Context, id task.ID, spec *source.Spec, sink fetch.Sink) error
}

// Reporter is told every change of a task's state and must not wait.
type Reporter interface {
	// Report takes note of a state.
	Report(u report.Update)
}

// Deps is what a table works with.
type Deps struct {
	// Logger takes the messages.
	Logger *zap.Logger
	// Files is where tasks are kept.
	Files *store.Store
	// Fetcher makes them whole.
	Fetcher Fetcher
	// Reporter tells the registry.
	Reporter Reporter
	// Losses is told of copies that the disk does not take.
	Losses Losses
}

// Table is the tasks in memory. Run must be running for tasks to be fetched.
type Table struct {
	log      *zap.Logger
	files    *store.Store
	fetcher  Fetcher
	reporter Reporter
	losses   Losses
	resting  *resting
	gauge    prometheus.Gauge
	started  chan struct{} // closed when Run has begun

	mu      sync.Mutex
	entries map[task.ID]*entry // guarded by mu
	base    context.Context    // of all fetches, set by Run; guarded by mu
	stopped bool               // guarded by mu
	fetches sync.WaitGroup     // added to under mu, unless stopped
}

// entry is a task's place in the table; guarded by Table.mu.
type entry struct {
	task    *Task
	running bool // its fetch has not ended
	doomed  bool // it is to leave when its fetch ends
	leaving bool // its files are being removed
}

// New makes an empty table.
func New(deps Deps) (*Table, error) {
	resting, err := newResting(deps.Files)
	if err != nil {
		return nil, err
	}
	return &Table{
		log: deps.Logger, files: deps.Files, fetcher: deps.Fetcher, reporter: deps.Reporter,
		losses: deps.Losses, resting: resting,
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "supernode_cdn_tasks", Help: "Tasks in memory.",
		}),
		started: make(chan struct{}),
		entries: make(map[task.ID]*entry),
	}, nil
}

// Collectors are the metrics, to be registered.
func (tb *Table) Collectors() []prometheus.Collector { return []prometheus.Collector{tb.gauge} }

// Run lets tasks be fetched until ctx ends, then ends all fetches and waits
// for them. It is called once.
func (tb *Table) Run(ctx context.Context) {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	tb.mu.Lock()
	tb.base = base
	tb.mu.Unlock()
	close(tb.started)
	<-ctx.Done()
	tb.mu.Lock()
	tb.stopped = true
	tb.mu.Unlock()
	cancel(errStopping())
	tb.fetches.Wait()
}

// Seed gives the task, and begins to fetch it if it is not in memory. It
// waits only for Run to begin, and for an earlier task of this id to be gone.
func (tb *Table) Seed(ctx context.Context, id task.ID, spec *source.Spec, epoch int64) (*Task, error) {
	select {
	case <-tb.started:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		t, leaving, err := tb.seed(id, spec, epoch)
		if err != nil || !leaving {
			return t, err
		}
		select {
		case <-t.gone:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

func (tb *Table) seed(id task.ID, spec *source.Spec, epoch int64) (t *Task, leaving bool, err error) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.stopped {
		return nil, false, errStopping()
	}
	if e := tb.entries[id]; e != nil {
		if e.doomed || e.leaving {
			return e.task, true, nil
		}
		e.task.raise(epoch)
		return e.task, false, nil
	}
	t = newTask(id, epoch, tb.reporter)
	ctx, cancel := context.WithCancelCause(tb.base)
	t.cancel = cancel
	e := &entry{task: t, running: true}
	tb.entries[id] = e
	tb.gauge.Inc()
	tb.fetches.Go(func() { tb.fetch(ctx, e, spec) })
	return t, false, nil
}

// fetch runs the fetch of e to its end.
func (tb *Table) fetch(ctx context.Context, e *entry, spec *source.Spec) {
	t := e.task
	err := tb.fetcher.Fetch(ctx, t.id, spec, t)
	aborted := context.Cause(ctx)
	t.cancel(nil)

	tb.mu.Lock()
	e.running = false
	if err == nil && !e.doomed {
		tb.mu.Unlock()
		return
	}
	e.leaving = true
	doomed := e.doomed
	tb.mu.Unlock()
	tb.resting.forget(t.id) // the fetch may have removed the copy on disk
	switch {
	case doomed:
		if err := tb.remove(e); err != nil {
			tb.log.Warn("removing the files of a deleted task", zap.String("task_id", string(t.id)), zap.Error(err))
		}
	case aborted != nil:
		tb.leave(e, aborted, false) // whoever fetches it next reports how it went
	default:
		tb.logFailure(t, err)
		tb.leave(e, err, true)
	}
}

func (tb *Table) logFailure(t *Task, err error) {
	log := tb.log.With(zap.String("task_id", string(t.id)), zap.Error(err))
	switch rpcerr.ReasonOf(err) {
	case rpcerr.SourceNotFound, rpcerr.SourceAuthRequired:
		log.Info("the task cannot be fetched")
	case rpcerr.SourceUnreachable, rpcerr.SourceBroken:
		log.Warn("the task cannot be fetched")
	default:
		log.Error("the task cannot be fetched")
	}
}

// leave takes a task whose fetch has ended out of the table and tells its
// listeners why, in this order: who asks again finds nothing of it.
func (tb *Table) leave(e *entry, why error, tellRegistry bool) {
	tb.mu.Lock()
	delete(tb.entries, e.task.id)
	tb.gauge.Dec()
	tb.mu.Unlock()
	e.task.fail(why, tellRegistry)
	close(e.task.gone)
}

// Delete ends the task's fetch, tells its listeners TASK_DELETED and removes
// its files. An unknown task is no error.
func (tb *Table) Delete(ctx context.Context, id task.ID) error {
	for {
		e, mine := tb.doom(id)
		if mine {
			return tb.remove(e)
		}
		select {
		case <-e.task.gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if e.doomed { // written before gone was closed
			return nil
		}
		// It left because it failed, and may have left an older copy on disk.
	}
}

// doom makes a task leave: at the end of its fetch if it has one, else it is
// the caller's to remove. A task that is not in memory gets an entry, so that
// nobody begins to fetch it before its files are gone.
func (tb *Table) doom(id task.ID) (e *entry, mine bool) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	e = tb.entries[id]
	switch {
	case e == nil:
		e = &entry{task: newTask(id, 0, tb.reporter)}
		tb.entries[id] = e
		tb.gauge.Inc()
	case e.leaving:
		return e, false
	case e.running:
		e.doomed = true
		e.task.cancel(errDeleted())
		return e, false
	}
	e.leaving = true
	return e, true
}

// remove removes the files of a task that is leaving.
func (tb *Table) remove(e *entry) error {
	tb.resting.forget(e.task.id)
	err := tb.files.Remove(e.task.id)
	tb.leave(e, errDeleted(), false)
	return err
}

// Find gives what can be served of a task: what has landed of one in memory,
// or a whole copy on disk, also while its source is asked whether it is still
// right. It is nil if there is neither.
func (tb *Table) Find(id task.ID) *Task {
	t, leaving := tb.lookUp(id)
	switch {
	case leaving:
		return nil
	case t != nil && t.served():
		return t
	}
	return tb.resting.find(id)
}

// Look gives a task as it stands, in memory or else on disk; nil if nothing of
// it is here.
func (tb *Table) Look(id task.ID) *Task {
	t, leaving := tb.lookUp(id)
	switch {
	case leaving:
		return nil
	case t != nil:
		return t
	}
	return tb.resting.find(id)
}

func (tb *Table) lookUp(id task.ID) (t *Task, leaving bool) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	e := tb.entries[id]
	if e == nil {
		return nil, false
	}
	return e.task, e.doomed || e.leaving
}

// Lost is told that a task that Find gave has no file any more. It is
// forgotten, so that it can be fetched again.
func (tb *Table) Lost(t *Task) {
	tb.resting.forget(t.id)
	tb.mu.Lock()
	e := tb.entries[t.id]
	if e == nil || e.task != t || e.running || e.leaving {
		tb.mu.Unlock()
		return
	}
	e.leaving = true
	tb.mu.Unlock()
	tb.log.Error("the files of a task are gone", zap.String("task_id", string(t.id)))
	if err := tb.remove(e); err != nil {
		tb.log.Warn("removing what is left of a task", zap.String("task_id", string(t.id)), zap.Error(err))
	}
}

func errDeleted() error {
	return rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "the task was deleted")
}

// errStopping has no reason: it says nothing about the task or its source.
func errStopping() error { return status.Error(codes.Unavailable, "the service stops") }
