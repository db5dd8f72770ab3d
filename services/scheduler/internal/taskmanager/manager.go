// Package taskmanager is which tasks a scheduler has: it makes them when a peer
// registers, goes on with those of dead schedulers as they knew them, hands its
// own over, keeps tasks away from a source that has just refused, and puts
// them away when nobody comes any more.
package taskmanager

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
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/mirror"
	"github.com/supernode-ha/supernode/services/scheduler/internal/reach"
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
	Follower *follower.Follower
	// Book is what other schedulers remember, Mirror tells them what is here.
	Book   *mirror.Book
	Mirror *mirror.Sender
	// Reach is which CDNs answer.
	Reach *reach.Reach
	// Task is what tasks need; Changed is the table's to set.
	Task task.Deps
}

// Manager is the tasks of a scheduler. It is safe for concurrent use while Run runs.
type Manager struct {
	cfg    Config
	deps   Deps
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// startedAt is when the process did.
	startedAt time.Time
	// revivals shares the making of a task of what is remembered of it.
	revivals singleflight.Group

	mu    sync.Mutex // guards tasks and leaving
	tasks map[string]*entry
	// leaving says that what is here is being handed over: nothing is made any more.
	leaving bool
}

type entry struct {
	*task.Task
	// requester is what the source was asked with: a refusal is only his.
	requester [sha256.Size]byte
	stop      context.CancelFunc
}

// New makes an empty table whose tasks live until ctx ends or Run returns.
func New(ctx context.Context, cfg Config, deps Deps) *Manager {
	root, end := context.WithCancel(ctx)
	deps.Task.Changed = deps.Mirror.Changed
	m := &Manager{cfg: cfg, deps: deps, ctx: root, cancel: end, startedAt: time.Now(), tasks: make(map[string]*entry)}
	deps.Follower.Yield = m.yield
	return m
}

// Run puts old tasks away until ctx ends, then all of them, and waits for them.
func (m *Manager) Run(ctx context.Context) error {
	defer m.deps.Follower.Health.Close()
	defer m.deps.Follower.Claims.Close()
	defer m.wg.Wait()
	m.wg.Go(func() { m.deps.Follower.Claims.Watch(m.ctx) })
	m.wg.Go(func() { m.deps.Mirror.Run(m.ctx) })
	m.wg.Go(func() { m.deps.Reach.Run(m.ctx) })
	defer func() { // under the lock: then nothing is begun any more that Wait would miss
		m.mu.Lock()
		defer m.mu.Unlock()
		m.cancel()
	}()
	next := time.NewTimer(m.cfg.GCInitialDelay)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-next.C:
			m.collectGarbage(ctx, time.Now())
			next.Reset(m.cfg.GCInterval)
		}
	}
}

// startTask runs a task that was made. The caller holds mu.
func (m *Manager) startTask(created *task.Task, source follower.Source) *entry {
	run, stop := context.WithCancel(m.ctx)
	e := &entry{Task: created, requester: fingerprint(source), stop: stop}
	m.tasks[e.ID] = e
	m.wg.Go(func() { e.Run(run) })
	m.wg.Go(func() { m.follow(run, e, source) })
	m.deps.Mirror.Add(e.ID, e.URL, source.Proto(), e.Task)
	return e
}

var errStopping = rpcerr.New(codes.Unavailable, "", "the scheduler is stopping")

// Register takes a peer into a task, which is made if need be, and waits for
// the facts of the source.
func (m *Manager) Register(ctx context.Context, id, url string, source follower.Source, info swarm.PeerInfo) (swarm.Facts, error) {
	requester := fingerprint(source)
	if err := m.restoreIfOwned(ctx, id); err != nil {
		return swarm.Facts{}, err
	}
	var failed *entry
	for {
		e, created, err := m.getOrCreate(ctx, id, url, source, failed)
		if err != nil {
			return swarm.Facts{}, err
		}
		facts, err := e.Register(ctx, info)
		if err == nil || ctx.Err() != nil || !m.shouldRetry(ctx, e, requester, created) {
			return facts, err
		}
		failed = e
	}
}

// shouldRetry tells whether a task that failed may be tried anew: not for
// the same asker within the interval after the source refused, and never by
// the one whose own try it was: he has his answer.
func (m *Manager) shouldRetry(ctx context.Context, e *entry, requester [sha256.Size]byte, created bool) bool {
	state, err := e.State(ctx)
	switch {
	case err != nil:
		return m.ctx.Err() == nil // it was put away meanwhile
	case created || state.Err == nil || rpcerr.ReasonOf(state.Err) == rpcerr.NotOwner:
		return false
	case !sourceRefused(state.Err):
		return true
	}
	return requester != e.requester || time.Since(state.FailedAt) >= m.cfg.FailAccessInterval
}

// sourceRefused tells whether it is the source that will not have it. One that
// changed under us may well answer the next who asks.
func sourceRefused(err error) bool {
	if errors.Is(err, swarm.ErrConflict) {
		return false
	}
	switch rpcerr.ReasonOf(err) {
	case rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.SourceUnreachable, rpcerr.SourceBroken:
		return true
	}
	return false
}

func fingerprint(s follower.Source) [sha256.Size]byte {
	return sha256.Sum256(fmt.Appendf(nil, "%q %q %q %v %q", s.URL, s.Headers, s.MD5, s.Insecure, s.RootCAs))
}

// getOrCreate gives the task, made if there is none, or only the one that failed.
func (m *Manager) getOrCreate(
	ctx context.Context, id, url string, source follower.Source, failed *entry,
) (e *entry, created bool, err error) {
	outdated, err := m.outdatedPeers(ctx, failed)
	if err != nil {
		return nil, false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil {
		return nil, false, errStopping
	}
	if e := m.tasks[id]; e != nil && e != failed {
		return e, false, nil
	}
	if m.leaving {
		return nil, false, errStopping
	}
	if failed != nil {
		failed.stop()
		m.deps.Mirror.Remove(id, failed.Task)
		m.deps.Book.Forget(id)
	}
	newTask := task.New(id, url, m.deps.Task)
	if source.Resumed {
		newTask.Restore(swarm.Update{})
	}
	newTask.ExcludePeers(outdated)
	return m.startTask(newTask, source), true, nil
}

// outdatedPeers are the peers that have pieces of a version of the source that is
// no more.
func (m *Manager) outdatedPeers(ctx context.Context, failed *entry) (map[string]struct{}, error) {
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
func (m *Manager) follow(ctx context.Context, e *entry, source follower.Source) {
	err := m.deps.Follower.Follow(ctx, e.ID, e.URL, source, e.Task)
	if ctx.Err() != nil {
		return
	}
	m.deps.Log.Info("the task cannot be had here",
		zap.String("task_id", e.ID), zap.String("reason", string(rpcerr.ReasonOf(err))), zap.Error(err))
	e.Fail(ctx, err)
	if sourceRefused(err) || errors.Is(err, swarm.ErrConflict) {
		return
	}
	// Those who are in it hear why before it ends.
	if rpcerr.ReasonOf(err) == rpcerr.NotOwner {
		m.remove(e, m.deps.Mirror.Release)
	} else {
		m.remove(e, m.deps.Mirror.Remove)
	}
	select {
	case <-ctx.Done():
	case <-time.After(endGrace):
	}
	e.stop()
}

// endGrace is how long a forgotten task still answers who asked it before.
const endGrace = time.Second

// remove takes a task out of the table. What its standby knows of it goes too,
// unless it is another scheduler's now.
func (m *Manager) remove(e *entry, tell func(id string, task mirror.Task)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tasks[e.ID] == e {
		delete(m.tasks, e.ID)
		tell(e.ID, e.Task)
	}
}

// discard ends a task.
func (m *Manager) discard(e *entry) {
	m.remove(e, m.deps.Mirror.Remove)
	e.stop()
}

// All gives the tasks that are here.
func (m *Manager) All() []*task.Task {
	entries := m.entries()
	tasks := make([]*task.Task, len(entries))
	for i, e := range entries {
		tasks[i] = e.Task
	}
	return tasks
}

func (m *Manager) entries() []*entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.tasks))
}

// Count is the number of tasks.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tasks)
}

// collectGarbage puts away tasks that nobody asked for of late, and forgets peers.
func (m *Manager) collectGarbage(ctx context.Context, now time.Time) {
	m.deps.Book.Prune(now)
	for _, e := range m.entries() {
		state, err := e.State(ctx)
		if err != nil {
			continue
		}
		keep := m.cfg.TaskExpireTime
		switch {
		case state.Err != nil:
			keep = m.cfg.FailAccessInterval
		case state.Unfinished > 0:
			keep = max(keep, maxPieceTime)
		}
		if now.Sub(state.LastUsed) >= keep {
			m.deps.Log.Info("nobody asks for the task any more", zap.String("task_id", e.ID), zap.Int("peers", state.Peers))
			m.deps.Book.Forget(e.ID)
			m.discard(e)
			continue
		}
		_ = e.Expire(ctx, now.Add(-m.cfg.PeerGCDelay), now.Add(-silentPeerTTL))
	}
}

// maxPieceTime is how long a client may be busy with one piece and say nothing: 15
// MiB at the 64 KB/s below which it gives up, and 10 s.
const maxPieceTime = 5 * time.Minute

// silentPeerTTL is how long a peer is kept that says nothing. Clients serve for five
// minutes after they were last asked for a piece, and being asked is not
// reported, so this is well above that.
const silentPeerTTL = 30 * time.Minute
