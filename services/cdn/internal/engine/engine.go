// Package engine is the tasks that the CDN has in memory. It makes sure that a
// task is worked on once however many ask, that the work is what the newest
// epoch says, that it ends when the task is deleted or the service stops, and
// that a task that failed is forgotten. How a task is fetched or copied, and
// how listeners are told, is not known here.
//
// A task in the engine is being fetched as its owner, being copied as a replica,
// being read from disk, or idle: whole, or a part that nobody makes more of.
// A Seed or a newer epoch turns one into another; what is here already stays.
// It leaves the engine when the work fails or it is deleted: it is leaving while
// its files are removed, and whoever asks for it in that time waits and begins
// anew.
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

// Fetcher makes tasks whole. Its methods block until that is so, or until it
// failed, and tell sink on the way.
type Fetcher interface {
	// Fetch makes a task whole as its owner.
	Fetch(ctx context.Context, job fetch.Job, sink fetch.Sink) error
	// Copy makes a task whole from other CDNs.
	Copy(ctx context.Context, job fetch.CopyJob, sink fetch.Sink) error
	// LoadPart tells what is on disk of a task that is not whole.
	LoadPart(ctx context.Context, id task.ID, sink fetch.Sink) error
}

// Reporter is told every change of a task's state and must not wait.
type Reporter interface {
	// Report takes note of a state.
	Report(u report.Update)
}

// Losses is told of copies that cannot be kept here, and must not wait.
type Losses interface {
	// Lost is told that the disk does not take the task.
	Lost(id task.ID, err error)
}

// Deps is what an engine works with.
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

// Engine is the tasks in memory. Run must be running for tasks to be worked on.
type Engine struct {
	Deps
	onDisk  *onDisk
	gauge   prometheus.Gauge
	started chan struct{} // closed when Run has begun

	mu        sync.Mutex
	entries   map[task.ID]*entry        // guarded by mu
	standings map[task.ID]task.Standing // of the records that name this instance; guarded by mu
	workCtx   context.Context           // of all work, set by Run; guarded by mu
	stopped   bool                      // guarded by mu
	workers   sync.WaitGroup            // added to under mu, unless stopped
}

// New makes an empty engine.
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

// Collectors are the metrics, to be registered.
func (eng *Engine) Collectors() []prometheus.Collector { return []prometheus.Collector{eng.gauge} }

// Run lets tasks be worked on until ctx ends, then ends all work and everybody's
// listening and waits for the work to end. What is here can be found on. It is
// called once.
func (eng *Engine) Run(ctx context.Context) {
	workCtx, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	eng.mu.Lock()
	eng.workCtx = workCtx
	for id, s := range eng.standings { // told before the begin
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

// Close lets the files go, after Run.
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

// Find gives what can be served of a task: what has landed of one in memory,
// or a whole copy on disk, also while its source is asked whether it is still
// right. It is nil if there is neither.
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

// Get gives a task as it stands, in memory or else on disk; nil if nothing of
// it is here.
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

// Lost is told that a task that Find gave has no file any more. It is
// forgotten, so that it can be fetched again.
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
	eng.Logger.Error("the files of a task are gone", zap.String("task_id", string(t.id)))
	if err := eng.removeFiles(e); err != nil {
		eng.Logger.Warn("removing what is left of a task", zap.String("task_id", string(t.id)), zap.Error(err))
	}
}

func errDeleted() error {
	return rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "the task was deleted")
}

func errReplaced() error {
	return rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "another version of the task takes its place")
}

// ErrStale is the answer to whoever takes this instance for the owner.
func ErrStale() error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "another CDN owns the task, or in another epoch")
}

// errStopping has no reason: it says nothing about the task or its source.
func errStopping() error { return status.Error(codes.Unavailable, "the service stops") }

// errRetry is for listeners of a task that has just changed its place.
func errRetry() error { return status.Error(codes.Unavailable, "ask again") }
