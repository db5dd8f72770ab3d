// Package table is which tasks a scheduler has: it makes them when a peer
// registers, keeps them away from a source that has just refused, and puts
// them away when nobody comes any more.
package table

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/seed"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// Config is how long things are kept.
type Config struct {
	// FailAccessInterval is how long a source that refused is left alone.
	FailAccessInterval time.Duration
	// GCInitialDelay and GCInterval are when what is old is looked for.
	GCInitialDelay time.Duration
	GCInterval     time.Duration
	// TaskExpireTime is how long a task is kept that nobody asks for.
	TaskExpireTime time.Duration
	// PeerGCDelay is how long a peer is kept after it left.
	PeerGCDelay time.Duration
}

// Deps are what a table needs.
type Deps struct {
	Log      *zap.Logger
	Follower *seed.Follower
	Task     task.Deps
}

// Table is the tasks of a scheduler. It is safe for concurrent use while Run runs.
type Table struct {
	cfg  Config
	deps Deps
	root context.Context
	end  context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex // guards tasks
	tasks map[string]*entry
}

type entry struct {
	*task.Task
	// asker is what the source was asked with: a refusal is only his.
	asker [sha256.Size]byte
	stop  context.CancelFunc
}

// New makes an empty table whose tasks live until ctx ends or Run returns.
func New(ctx context.Context, cfg Config, deps Deps) *Table {
	root, end := context.WithCancel(ctx)
	return &Table{cfg: cfg, deps: deps, root: root, end: end, tasks: make(map[string]*entry)}
}

// Run puts old tasks away until ctx ends, then all of them, and waits for them.
func (t *Table) Run(ctx context.Context) error {
	defer t.work.Wait()
	defer t.end()
	next := time.NewTimer(t.cfg.GCInitialDelay)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			t.collect(ctx, time.Now())
			next.Reset(t.cfg.GCInterval)
		}
	}
}

// Get gives a task that is here. For one that is not it says NOT_OWNER when
// another scheduler answers for it, else TASK_NOT_FOUND.
func (t *Table) Get(ctx context.Context, id string) (*task.Task, error) {
	t.mu.Lock()
	e := t.tasks[id]
	t.mu.Unlock()
	if e != nil {
		return e.Task, nil
	}
	return nil, t.elsewhere(ctx, id)
}

func (t *Table) elsewhere(ctx context.Context, id string) error {
	unknown := rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "task %s is not known", id)
	resp, err := t.deps.Follower.Registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: id})
	if err != nil {
		return unknown
	}
	scheduler := resp.GetRecord().GetScheduler()
	if scheduler == t.deps.Follower.SelfID {
		return unknown
	}
	m, there := t.deps.Follower.FindScheduler(scheduler)
	if !there {
		return unknown
	}
	return seed.NotOwner(m.ID, m.Endpoint)
}

// Register takes a peer into a task, which is made if need be, and waits for
// the facts of the source.
func (t *Table) Register(ctx context.Context, id, url string, source seed.Source, info swarm.PeerInfo) (swarm.Facts, error) {
	asker := fingerprint(source)
	for {
		e := t.obtain(id, url, source, asker)
		facts, err := e.Register(ctx, info)
		if err == nil || ctx.Err() != nil || !t.worthAnother(ctx, e, asker) {
			return facts, err
		}
		t.drop(e)
	}
}

// worthAnother tells whether a task that failed may be tried anew: not for
// the same asker within the interval after the source refused.
func (t *Table) worthAnother(ctx context.Context, e *entry, asker [sha256.Size]byte) bool {
	state, err := e.State(ctx)
	if err != nil {
		return t.root.Err() == nil // it was put away meanwhile
	}
	if state.Err == nil || rpcerr.ReasonOf(state.Err) == rpcerr.NotOwner {
		return false
	}
	return asker != e.asker || time.Since(state.FailedAt) >= t.cfg.FailAccessInterval
}

func fingerprint(s seed.Source) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %q %v %q", s.URL, s.Headers, s.MD5, s.Insecure, s.RootCAs))
}

// obtain gives the task, made if need be.
func (t *Table) obtain(id, url string, source seed.Source, asker [sha256.Size]byte) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.tasks[id]; e != nil {
		return e
	}
	ctx, stop := context.WithCancel(t.root)
	e := &entry{Task: task.New(id, url, t.deps.Task), asker: asker, stop: stop}
	t.tasks[id] = e
	t.work.Go(func() { e.Run(ctx) })
	t.work.Go(func() { t.follow(ctx, e, source) })
	return e
}

// follow keeps the task told; a failure that is nobody's refusal is not
// remembered, so that the next who registers finds out for himself.
func (t *Table) follow(ctx context.Context, e *entry, source seed.Source) {
	err := t.deps.Follower.Follow(ctx, e.ID, e.URL, source, e.Task)
	if ctx.Err() != nil {
		return
	}
	reason := rpcerr.ReasonOf(err)
	t.deps.Log.Info("the task cannot be had here",
		zap.String("task_id", e.ID), zap.String("reason", string(reason)), zap.Error(err))
	e.Fail(ctx, err)
	switch reason {
	case rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.SourceUnreachable, rpcerr.SourceBroken:
	default:
		t.forget(e)
	}
}

// forget takes a failed task out of the table but lets those who are in it
// hear why: it runs on until the next collection finds it gone.
func (t *Table) forget(e *entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tasks[e.ID] == e {
		delete(t.tasks, e.ID)
	}
	time.AfterFunc(lastWords, e.stop)
}

// lastWords is how long a forgotten task still answers who asked it before.
const lastWords = time.Second

// drop ends a task.
func (t *Table) drop(e *entry) {
	t.mu.Lock()
	if t.tasks[e.ID] == e {
		delete(t.tasks, e.ID)
	}
	t.mu.Unlock()
	e.stop()
}

// All gives the tasks that are here.
func (t *Table) All() []*task.Task {
	entries := t.entries()
	tasks := make([]*task.Task, len(entries))
	for i, e := range entries {
		tasks[i] = e.Task
	}
	return tasks
}

func (t *Table) entries() []*entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Collect(maps.Values(t.tasks))
}

// Count is the number of tasks.
func (t *Table) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.tasks)
}

// collect puts away tasks that nobody asked for of late, and forgets peers.
func (t *Table) collect(ctx context.Context, now time.Time) {
	for _, e := range t.entries() {
		state, err := e.State(ctx)
		if err != nil {
			continue
		}
		keep := t.cfg.TaskExpireTime
		if state.Err != nil {
			keep = t.cfg.FailAccessInterval
		}
		if now.Sub(state.Used) >= keep {
			t.deps.Log.Info("nobody asks for the task any more", zap.String("task_id", e.ID), zap.Int("peers", state.Peers))
			t.drop(e)
			continue
		}
		_ = e.Forget(ctx, now.Add(-t.cfg.PeerGCDelay), now.Add(-silence))
	}
}

// silence is how long a peer is kept that says nothing. Clients serve for five
// minutes after they were last asked for a piece, and being asked is not
// reported, so this is well above that.
const silence = 30 * time.Minute
