// Package engine holds the tasks that a CDN has in memory and decides what is done
// for each of them: it is fetched as its owner, copied as a replica, read from disk,
// or idle. Package fetch does this work, and package rpc sends the events of a Task to
// its listeners.
//
// The goal of a task:
//
//	new --Seed---------------------------------------> owning
//	new --Assign as replica--------------------------> copying
//	new --Follow of a partial copy on disk-----------> reading
//	new --Follow of a whole copy on disk-------------> idle
//
//	owning, copying, reading --the work is done------> idle
//	idle, copying, reading   --Seed------------------> owning, unless the copy is whole and checked
//	owning --Assign as replica, or STALE_EPOCH-------> copying, or idle until the record arrives
//	idle, reading --Assign as replica----------------> copying, unless the copy is whole
//	copying --Release, or Assign as the only copy----> idle
//
//	any --Delete, or the work fails--> removing --files are removed or closed--> no entry
//
// Invariants:
//
//   - At most one worker runs for a task, whatever the number of callers.
//   - The newest epoch decides who owns a task. An older one is ignored (Assign) or
//     refused with STALE_EPOCH (Seed).
//   - The pieces of a task stay on disk and in memory when its goal changes, unless
//     the new goal is another version of the source.
//   - While a task is removing, Seed and Delete wait and then start from scratch, and
//     Find, Get and Follow answer as if there were no such task.
package engine

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
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Fetcher downloads tasks. Each method blocks until its work is done or has failed,
// and passes what it gets to sink.
type Fetcher interface {
	// Fetch completes a task as its owner.
	Fetch(ctx context.Context, job fetch.Job, sink fetch.Sink) error
	// Copy completes a task from other CDNs.
	Copy(ctx context.Context, job fetch.CopyJob, sink fetch.Sink) error
	// LoadPart passes the pieces of a partial copy on disk to sink.
	LoadPart(ctx context.Context, id task.ID, sink fetch.Sink) error
}

// Reporter reports the states of tasks to the registry.
type Reporter interface {
	// Report queues an update. It must not block.
	Report(u report.Update)
}

// Losses resigns from tasks.
type Losses interface {
	// Lost is called for a task that the local disk cannot store. It must not block.
	Lost(id task.ID, err error)
}

// Deps holds the dependencies of an engine.
type Deps struct {
	Logger *zap.Logger
	// Files is the cache directory.
	Files *store.Store
	// Fetcher does the work.
	Fetcher Fetcher
	// Reporter receives every change of an owned task's state.
	Reporter Reporter
	// Losses receives the tasks that failed because of the local disk.
	Losses Losses
}

// Engine holds the tasks in memory. It is safe for concurrent use. It starts no work
// until Run is called.
type Engine struct {
	Deps
	onDisk  *onDisk
	gauge   prometheus.Gauge
	started chan struct{} // closed when Run has started

	mu        sync.Mutex
	entries   map[task.ID]*entry        // guarded by mu
	standings map[task.ID]task.Standing // from the records that name this instance; guarded by mu
	workCtx   context.Context           // parent of the contexts of all work, set by Run; guarded by mu
	stopped   bool                      // guarded by mu
	workers   sync.WaitGroup            // Go is called with mu held and not after stopped is set
}

// New returns an empty engine.
func New(deps Deps) (*Engine, error) {
	cached, err := newOnDisk(deps.Files, deps.Reporter)
	if err != nil {
		return nil, err
	}
	return &Engine{
		Deps: deps, onDisk: cached,
		gauge: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "supernode_cdn_tasks", Help: "Tasks in memory.",
		}),
		started:   make(chan struct{}),
		entries:   make(map[task.ID]*entry),
		standings: make(map[task.ID]task.Standing),
	}, nil
}

// Collectors returns the metrics for registration.
func (eng *Engine) Collectors() []prometheus.Collector { return []prometheus.Collector{eng.gauge} }

// Run starts the work on tasks. When ctx ends, it stops all work, ends all tasks with
// an error for their listeners, and waits for the workers. Find and Get still return
// tasks afterwards. Run must be called once.
func (eng *Engine) Run(ctx context.Context) {
	workCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	eng.mu.Lock()
	eng.workCtx = workCtx
	for id, s := range eng.standings { // assigned before Run
		eng.applyStanding(id, s)
	}
	eng.mu.Unlock()
	close(eng.started)
	<-ctx.Done()
	eng.mu.Lock()
	eng.stopped = true
	for _, e := range eng.entries {
		if !e.working && !e.removing {
			e.task.fail(errStopping(), false)
		}
	}
	eng.mu.Unlock()
	cancel(errStopping())
	eng.workers.Wait()
}

// Close closes the files of all tasks. It must be called after Run has returned.
func (eng *Engine) Close() {
	eng.mu.Lock()
	var all []*Task
	for _, e := range eng.entries {
		all = append(append(all, e.task), e.replaced...)
	}
	eng.mu.Unlock()
	for _, t := range all {
		eng.closeFiles(t)
	}
}

// Find returns a task whose pieces can be served: a task in memory that has files, or
// else a whole copy on disk. It returns the copy on disk also while the source is asked
// whether that copy is current. It returns nil if there is neither.
func (eng *Engine) Find(id task.ID) *Task {
	t, removing := eng.lookUp(id)
	switch {
	case removing:
		return nil
	case t != nil && t.isServable():
		return t
	}
	return eng.onDisk.find(id)
}

// Get returns a task from memory, or else a whole copy on disk. It returns nil if there
// is neither.
func (eng *Engine) Get(id task.ID) *Task {
	t, removing := eng.lookUp(id)
	switch {
	case removing:
		return nil
	case t != nil:
		return t
	}
	return eng.onDisk.find(id)
}

func (eng *Engine) lookUp(id task.ID) (t *Task, removing bool) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	e := eng.entries[id]
	if e == nil {
		return nil, false
	}
	return e.task, e.deleteAfterWork || e.removing
}

// Lost removes a task that Find returned and whose file does not exist any more, so
// that the next Seed fetches the task again.
func (eng *Engine) Lost(t *Task) {
	eng.onDisk.evict(t.id)
	eng.mu.Lock()
	e := eng.entries[t.id]
	if e == nil || e.task != t || e.working || e.removing {
		eng.mu.Unlock()
		return
	}
	e.removing = true
	eng.mu.Unlock()
	eng.Logger.Error("a file of the task does not exist any more; removing the task", zap.String("task_id", string(t.id)))
	if err := eng.removeFiles(e); err != nil {
		eng.Logger.Warn("cannot remove the other files of the task", zap.String("task_id", string(t.id)), zap.Error(err))
	}
}

func errDeleted() error {
	return rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "the task was deleted")
}

func errReplaced() error {
	return rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "the task was replaced by another version of the source")
}

// ErrStale returns the error for a caller that expects this instance to own the task.
func ErrStale() error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "this CDN does not own the task in this epoch")
}

// errStopping returns an error without a reason, because neither the task nor its
// source has failed.
func errStopping() error { return status.Error(codes.Unavailable, "the CDN is stopping") }

// errRetry returns the error for the listeners of an entry that is removed while the
// task itself has not failed.
func errRetry() error {
	return status.Error(codes.Unavailable, "the work on the task was stopped; retry")
}
