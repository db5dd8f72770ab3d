// Package table is which tasks a scheduler has: it makes them when a peer
// registers, goes on with those of dead schedulers as they knew them, hands its
// own over, keeps tasks away from a source that has just refused, and puts
// them away when nobody comes any more.
package table

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/mirror"
	"github.com/supernode-ha/supernode/services/scheduler/internal/reach"
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
	Log *zap.Logger
	// Follower follows the tasks; Yield is the table's to set.
	Follower *seed.Follower
	// Book is what other schedulers remember, Mirror tells them what is here.
	Book   *mirror.Book
	Mirror *mirror.Sender
	// Reach is which CDNs answer.
	Reach *reach.Reach
	// Task is what tasks need; Changed is the table's to set.
	Task task.Deps
}

// Table is the tasks of a scheduler. It is safe for concurrent use while Run runs.
type Table struct {
	cfg  Config
	deps Deps
	root context.Context
	end  context.CancelFunc
	work sync.WaitGroup
	// began is when the process did.
	began time.Time
	// reviving shares the making of a task of what is remembered of it.
	reviving singleflight.Group

	mu    sync.Mutex // guards tasks and leaving
	tasks map[string]*entry
	// leaving says that what is here is being handed over: nothing is made any more.
	leaving bool
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
	deps.Task.Changed = deps.Mirror.Changed
	t := &Table{cfg: cfg, deps: deps, root: root, end: end, began: time.Now(), tasks: make(map[string]*entry)}
	deps.Follower.Yield = t.yield
	return t
}

// Run puts old tasks away until ctx ends, then all of them, and waits for them.
func (t *Table) Run(ctx context.Context) error {
	defer t.deps.Follower.Health.Close()
	defer t.deps.Follower.Claims.Close()
	defer t.work.Wait()
	t.work.Go(func() { t.deps.Follower.Claims.Watch(t.root) })
	t.work.Go(func() { t.deps.Mirror.Run(t.root) })
	t.work.Go(func() { t.deps.Reach.Run(t.root) })
	defer func() { // under the lock: then nothing is begun any more that Wait would miss
		t.mu.Lock()
		defer t.mu.Unlock()
		t.end()
	}()
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

// begin runs a task that was made. The caller holds mu.
func (t *Table) begin(made *task.Task, source seed.Source) *entry {
	run, stop := context.WithCancel(t.root)
	e := &entry{Task: made, asker: fingerprint(source), stop: stop}
	t.tasks[e.ID] = e
	t.work.Go(func() { e.Run(run) })
	t.work.Go(func() { t.follow(run, e, source) })
	t.deps.Mirror.Add(e.ID, e.URL, source.Proto(), e.Task)
	return e
}

var errStopping = rpcerr.New(codes.Unavailable, "", "the scheduler is stopping")

// Register takes a peer into a task, which is made if need be, and waits for
// the facts of the source.
func (t *Table) Register(ctx context.Context, id, url string, source seed.Source, info swarm.PeerInfo) (swarm.Facts, error) {
	asker := fingerprint(source)
	if err := t.recall(ctx, id); err != nil {
		return swarm.Facts{}, err
	}
	var failed *entry
	for {
		e, made, err := t.obtain(ctx, id, url, source, failed)
		if err != nil {
			return swarm.Facts{}, err
		}
		facts, err := e.Register(ctx, info)
		if err == nil || ctx.Err() != nil || !t.worthAnother(ctx, e, asker, made) {
			return facts, err
		}
		failed = e
	}
}

// worthAnother tells whether a task that failed may be tried anew: not for
// the same asker within the interval after the source refused, and never by
// the one whose own try it was: he has his answer.
func (t *Table) worthAnother(ctx context.Context, e *entry, asker [sha256.Size]byte, made bool) bool {
	state, err := e.State(ctx)
	switch {
	case err != nil:
		return t.root.Err() == nil // it was put away meanwhile
	case made || state.Err == nil || rpcerr.ReasonOf(state.Err) == rpcerr.NotOwner:
		return false
	case !refused(state.Err):
		return true
	}
	return asker != e.asker || time.Since(state.FailedAt) >= t.cfg.FailAccessInterval
}

// refused tells whether it is the source that will not have it. One that
// changed under us may well answer the next who asks.
func refused(err error) bool {
	if errors.Is(err, swarm.ErrConflict) {
		return false
	}
	switch rpcerr.ReasonOf(err) {
	case rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.SourceUnreachable, rpcerr.SourceBroken:
		return true
	}
	return false
}

func fingerprint(s seed.Source) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %q %v %q", s.URL, s.Headers, s.MD5, s.Insecure, s.RootCAs))
}

// obtain gives the task, made if there is none, or only the one that failed.
func (t *Table) obtain(
	ctx context.Context, id, url string, source seed.Source, failed *entry,
) (e *entry, made bool, err error) {
	outdated, err := t.outdated(ctx, failed)
	if err != nil {
		return nil, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.root.Err() != nil {
		return nil, false, errStopping
	}
	if e := t.tasks[id]; e != nil && e != failed {
		return e, false, nil
	}
	if t.leaving {
		return nil, false, errStopping
	}
	if failed != nil {
		failed.stop()
		t.deps.Mirror.Remove(id, failed.Task)
		t.deps.Book.Forget(id)
	}
	fresh := task.New(id, url, t.deps.Task)
	if source.Resumed {
		fresh.Restore(swarm.Memory{})
	}
	fresh.KeepOut(outdated)
	return t.begin(fresh, source), true, nil
}

// outdated are the peers that have pieces of a version of the source that is
// no more.
func (t *Table) outdated(ctx context.Context, failed *entry) (map[string]struct{}, error) {
	if failed == nil {
		return nil, nil
	}
	if state, err := failed.State(ctx); err != nil || !errors.Is(state.Err, swarm.ErrConflict) {
		return nil, ctx.Err() // one that was put away has nothing to tell
	}
	peers, err := failed.Outdated(ctx)
	if err != nil && ctx.Err() == nil {
		return nil, nil
	}
	return peers, err
}

// follow keeps the task told. When the source has refused or changed, the task
// stays to tell who asks; any other failure is not remembered, so that the
// next who registers finds out for himself.
func (t *Table) follow(ctx context.Context, e *entry, source seed.Source) {
	err := t.deps.Follower.Follow(ctx, e.ID, e.URL, source, e.Task)
	if ctx.Err() != nil {
		return
	}
	t.deps.Log.Info("the task cannot be had here",
		zap.String("task_id", e.ID), zap.String("reason", string(rpcerr.ReasonOf(err))), zap.Error(err))
	e.Fail(ctx, err)
	if refused(err) || errors.Is(err, swarm.ErrConflict) {
		return
	}
	// Those who are in it hear why before it ends.
	if rpcerr.ReasonOf(err) == rpcerr.NotOwner {
		t.forget(e, t.deps.Mirror.Release)
	} else {
		t.forget(e, t.deps.Mirror.Remove)
	}
	select {
	case <-ctx.Done():
	case <-time.After(lastWords):
	}
	e.stop()
}

// lastWords is how long a forgotten task still answers who asked it before.
const lastWords = time.Second

// forget takes a task out of the table. What its standby knows of it goes too,
// unless it is another scheduler's now.
func (t *Table) forget(e *entry, tell func(id string, task mirror.Task)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tasks[e.ID] == e {
		delete(t.tasks, e.ID)
		tell(e.ID, e.Task)
	}
}

// drop ends a task.
func (t *Table) drop(e *entry) {
	t.forget(e, t.deps.Mirror.Remove)
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
	t.deps.Book.Prune(now)
	for _, e := range t.entries() {
		state, err := e.State(ctx)
		if err != nil {
			continue
		}
		keep := t.cfg.TaskExpireTime
		switch {
		case state.Err != nil:
			keep = t.cfg.FailAccessInterval
		case state.Unfinished > 0:
			keep = max(keep, slowest)
		}
		if now.Sub(state.Used) >= keep {
			t.deps.Log.Info("nobody asks for the task any more", zap.String("task_id", e.ID), zap.Int("peers", state.Peers))
			t.deps.Book.Forget(e.ID)
			t.drop(e)
			continue
		}
		_ = e.Forget(ctx, now.Add(-t.cfg.PeerGCDelay), now.Add(-silence))
	}
}

// slowest is how long a client may be busy with one piece and say nothing: 15
// MiB at the 64 KB/s below which it gives up, and 10 s.
const slowest = 5 * time.Minute

// silence is how long a peer is kept that says nothing. Clients serve for five
// minutes after they were last asked for a piece, and being asked is not
// reported, so this is well above that.
const silence = 30 * time.Minute
