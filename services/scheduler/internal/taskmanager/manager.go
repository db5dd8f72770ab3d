// Package taskmanager creates, finds and ends the tasks of a scheduler. It creates a
// task when a peer registers, restores the tasks of dead schedulers from their
// replicated state, hands its own tasks over to their standbys when the scheduler
// stops, and removes tasks that are not used any more.
//
//	Register, or takeover --> running --TaskExpireTime without a call--> ended
//	                             |
//	                             +--source refused or changed--> failed --FailAccessInterval--> ended
//	                             |
//	                             +--source refused at once--> failed --endGrace--> ended, a refusal is kept
//	                             |
//	                             +--any other failure, NOT_OWNER--> ended after endGrace
//
// Invariants:
//
//   - There is at most one task per id in the map. Its goroutines are part of
//     Manager.wg, and Run waits for them.
//   - No task is created once the manager hands its tasks over, waits for the last
//     downloads, or stops.
//   - A task that another scheduler answers for is refused with NOT_OWNER.
//   - A registration creates no task if there are Config.MaxTasks. A takeover does.
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

	lru "github.com/hashicorp/golang-lru/v2"
	"go.uber.org/zap"
	"golang.org/x/sync/singleflight"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/replication"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// Config holds the bound on tasks and the intervals after which tasks and peers are
// removed.
type Config struct {
	// FailAccessInterval is the time after a failure of the source during which
	// the same request is refused without asking the source again.
	FailAccessInterval time.Duration
	// GCInitialDelay is the delay before the first garbage collection, and
	// GCInterval the interval of the following ones.
	GCInitialDelay time.Duration
	GCInterval     time.Duration
	// TaskExpireTime is the time without a call after which a task is removed.
	TaskExpireTime time.Duration
	// PeerGCDelay is how long a peer is kept after it has left.
	PeerGCDelay time.Duration
	// MaxTasks is the number of tasks from which on registrations create no other
	// one; 0 for no bound. A task of another scheduler is taken over all the same.
	MaxTasks int
}

// Deps holds the dependencies of a manager.
type Deps struct {
	Log *zap.Logger
	// Follower follows the tasks' CDN copies. New sets its Yield.
	Follower *follower.Follower
	// StandbyStore holds the replicated state of other schedulers' tasks.
	StandbyStore *replication.StandbyStore
	// Replicator replicates the tasks of this scheduler.
	Replicator *replication.Replicator
	// Reachability reports which CDNs answer this scheduler and others.
	Reachability *health.Reachability
	// Task holds the dependencies of tasks. New sets its Changed.
	Task task.Deps
}

// Manager holds the tasks of a scheduler. It is safe for concurrent use while Run
// runs.
type Manager struct {
	cfg    Config
	deps   Deps
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	// startedAt is the start time of the process.
	startedAt time.Time
	// refusals are those of sources that refused before anything was known of the task.
	refusals *lru.Cache[string, refusal]
	// revivals makes concurrent calls share one restoration of a task.
	revivals singleflight.Group

	mu    sync.Mutex // guards tasks and phase
	tasks map[string]*entry
	phase phase
}

type entry struct {
	*task.Task
	// requester is the fingerprint of the request with which the source was asked.
	// A refusal applies only to equal requests.
	requester [sha256.Size]byte
	stop      context.CancelFunc
}

// New returns an empty manager. Its tasks end when ctx ends or Run returns.
func New(ctx context.Context, cfg Config, deps Deps) *Manager {
	root, end := context.WithCancel(ctx)
	deps.Task.Changed = deps.Replicator.MarkChanged
	refusals, _ := lru.New[string, refusal](maxRefusals) // it fails for a size below 1 only
	m := &Manager{
		cfg: cfg, deps: deps, ctx: root, cancel: end, startedAt: time.Now(), tasks: make(map[string]*entry), refusals: refusals,
	}
	deps.Follower.Yield = m.yield
	return m
}

// Run removes unused tasks until ctx ends. Then it ends all tasks and waits for them.
func (m *Manager) Run(ctx context.Context) error {
	defer m.deps.Follower.Health.Close()
	defer m.deps.Follower.Resolver.Close()
	defer m.wg.Wait()
	m.wg.Go(func() { m.deps.Follower.Resolver.Watch(m.ctx) })
	m.wg.Go(func() { m.deps.Replicator.Run(m.ctx) })
	m.wg.Go(func() { m.deps.Reachability.Run(m.ctx) })
	defer func() { // under the lock, so that no task is started after wg.Wait
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

// startTask runs a new task. The caller holds mu.
func (m *Manager) startTask(created *task.Task, source follower.Source) *entry {
	run, stop := context.WithCancel(m.ctx)
	e := &entry{Task: created, requester: fingerprint(source), stop: stop}
	m.tasks[e.ID] = e
	m.wg.Go(func() { e.Run(run) })
	m.wg.Go(func() { m.follow(run, e, source) })
	m.deps.Replicator.Add(e.ID, e.URL, source.Proto(), e.Task)
	return e
}

var (
	errStopping = rpcerr.New(codes.Unavailable, "", "the scheduler is stopping")
	// errFinishing is not worth a retry: there is no other scheduler.
	errFinishing = rpcerr.New(codes.Unavailable, rpcerr.Stopping, "the only scheduler is stopping, and finishes the downloads in progress only")
)

// Register adds a peer to a task and waits for the facts of the source. It creates
// the task if there is none. It returns LIMIT_REACHED at once if the peer or the task is
// new and there are too many of them.
func (m *Manager) Register(ctx context.Context, id, url string, source follower.Source, info swarm.PeerInfo) (swarm.Facts, error) {
	requester := fingerprint(source)
	if r, found := m.refused(id); found && r.requester == requester {
		return swarm.Facts{}, r.err
	}
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

// shouldRetry reports whether a failed task may be replaced by a new one. It may not
// if this call created the failed task, nor for an equal request within
// FailAccessInterval after the source refused.
func (m *Manager) shouldRetry(ctx context.Context, e *entry, requester [sha256.Size]byte, created bool) bool {
	state, err := e.State(ctx)
	switch {
	case err != nil:
		return m.ctx.Err() == nil // the task has ended in the meantime
	case created || state.Err == nil || rpcerr.ReasonOf(state.Err) == rpcerr.NotOwner:
		return false
	case !sourceRefused(state.Err):
		return true
	}
	return requester != e.requester || time.Since(state.FailedAt) >= m.cfg.FailAccessInterval
}

// sourceRefused reports whether the source is the cause of the failure. A source that
// changed during the download is not: the next request may succeed.
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

// getOrCreate returns the task. It creates it if there is none, or if the current one
// is failed.
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
	if m.phase == finishing {
		return nil, false, errFinishing
	}
	if e := m.tasks[id]; e != nil && e != failed {
		return e, false, nil
	}
	if m.phase != serving {
		return nil, false, errStopping
	}
	if limit := m.cfg.MaxTasks; limit > 0 && len(m.tasks) >= limit && m.tasks[id] == nil {
		return nil, false, m.deps.Task.Stats.RefuseTask(limit)
	}
	if failed != nil {
		failed.stop()
		m.deps.Replicator.Remove(id, failed.Task)
		m.deps.StandbyStore.Delete(id)
	}
	m.refusals.Remove(id)
	newTask := task.New(id, url, m.deps.Task)
	if source.Resumed {
		newTask.Restore(swarm.Update{})
	}
	newTask.ExcludePeers(outdated)
	return m.startTask(newTask, source), true, nil
}

// outdatedPeers returns the peers that have pieces of the version of the source that
// a failed task had.
func (m *Manager) outdatedPeers(ctx context.Context, failed *entry) (map[string]struct{}, error) {
	if failed == nil {
		return nil, nil
	}
	if state, err := failed.State(ctx); err != nil || !errors.Is(state.Err, swarm.ErrConflict) {
		return nil, ctx.Err() // a task that has ended has no peers
	}
	peers, err := failed.Outdated(ctx)
	if err != nil && ctx.Err() == nil {
		return nil, nil
	}
	return peers, err
}

// follow follows the CDN copies of a task until it ends or fails. If the source
// refused or changed, the failed task is kept to answer further calls. After any
// other failure it is removed, so that the next registration tries again.
func (m *Manager) follow(ctx context.Context, e *entry, source follower.Source) {
	err := m.deps.Follower.Follow(ctx, e.ID, e.URL, source, e.Task)
	if ctx.Err() != nil {
		return
	}
	m.deps.Log.Info("the task failed on this scheduler",
		zap.String("task_id", e.ID), zap.String("reason", string(rpcerr.ReasonOf(err))), zap.Error(err))
	e.Fail(ctx, err)
	if sourceRefused(err) && m.endRefused(ctx, e, err) {
		return
	}
	if sourceRefused(err) || errors.Is(err, swarm.ErrConflict) {
		return
	}
	// Held pulls get the error before the task ends.
	if rpcerr.ReasonOf(err) == rpcerr.NotOwner {
		m.remove(e, m.deps.Replicator.Release)
	} else {
		m.remove(e, m.deps.Replicator.Remove)
	}
	select {
	case <-ctx.Done():
	case <-time.After(endGrace):
	}
	e.stop()
}

// endGrace is how long a removed task still answers the calls that have found it.
const endGrace = time.Second

// remove removes a task from the map and calls endReplication, which decides whether
// the standby deletes its replica.
func (m *Manager) remove(e *entry, endReplication func(id string, task replication.Task)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.tasks[e.ID] == e {
		delete(m.tasks, e.ID)
		endReplication(e.ID, e.Task)
	}
}

// discard removes and ends a task.
func (m *Manager) discard(e *entry) {
	m.remove(e, m.deps.Replicator.Remove)
	e.stop()
}

// Loaded returns a task that is in memory, or nil.
func (m *Manager) Loaded(id string) *task.Task {
	if e := m.find(id); e != nil {
		return e.Task
	}
	return nil
}

// All returns all tasks.
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

// Count returns the number of tasks.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.tasks)
}

// collectGarbage ends tasks that have not been used for a while and removes peers
// that have left or are silent.
func (m *Manager) collectGarbage(ctx context.Context, now time.Time) {
	m.deps.StandbyStore.Prune(now)
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
			m.deps.Log.Info("removing a task that is not used any more", zap.String("task_id", e.ID), zap.Int("peers", state.Peers))
			m.deps.StandbyStore.Delete(e.ID)
			m.discard(e)
			continue
		}
		_ = e.Expire(ctx, now.Add(-m.cfg.PeerGCDelay), now.Add(-silentPeerTTL))
	}
}

// maxPieceTime is how long a client may download one piece without a call: 15 MiB at
// 64 KB/s, the rate below which it gives up, plus 10 s.
const maxPieceTime = 5 * time.Minute

// silentPeerTTL is how long a peer is kept without a sign of life. A client serves for
// five minutes after the last request for a piece and does not report such
// requests, so this must be well above that.
const silentPeerTTL = 30 * time.Minute
