package taskmanager

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/replication"
	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// Get returns a task. If the task's scheduler is dead, Get takes it over and restores
// it from its replicated state. Without such state it creates the task only if
// adopt is set. It returns NOT_OWNER if another scheduler answers for the task, and
// TASK_NOT_FOUND otherwise. While no registry is available, it restores a task only
// if the replication stream of the task's scheduler has ended.
func (m *Manager) Get(ctx context.Context, id string, adopt bool) (*task.Task, error) {
	e := m.find(id)
	switch {
	case e != nil:
		return e.Task, nil
	case m.ctx.Err() != nil:
		return nil, errStopping
	}
	if r, found := m.refused(id); found {
		return nil, r.err
	}
	assignment, err := m.deps.Follower.Resolver.Acquire(ctx, id, m.mayTakeOver)
	// A concurrent call may have created the task in the meantime.
	if e := m.find(id); e != nil {
		return e.Task, nil
	}
	orphaned := rpcerr.ReasonOf(err) == rpcerr.StoreUnavailable && m.deps.StandbyStore.Orphaned(id)
	if err != nil && !orphaned {
		return nil, err
	}
	e, failed := m.revive(ctx, id, assignment)
	if e == nil && failed == nil && adopt && !orphaned {
		url := assignment.Record.GetUrl()
		e, failed = m.resume(id, url, follower.Source{URL: url}, swarm.Update{})
	}
	switch {
	case failed != nil:
		return nil, failed
	case e != nil:
		return e.Task, nil
	case orphaned:
		return nil, err
	}
	return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "there is a record of task %s, but no state to restore it from", id)
}

func (m *Manager) find(id string) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tasks[id]
}

// mayTakeOver reports whether this scheduler takes over tasks of dead schedulers.
func (m *Manager) mayTakeOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.phase == serving && m.ctx.Err() == nil
}

// recallFromStandby fetches the state that this scheduler may have replicated to the
// task's standby before it was restarted. A standby keeps it for
// replication.Retention.
func (m *Manager) recallFromStandby(ctx context.Context, id string) {
	if m.deps.StandbyStore.Has(id) || !m.recentlyRestarted() {
		return
	}
	if err := m.deps.Replicator.Recall(ctx, id, m.deps.StandbyStore); err != nil {
		m.deps.Log.Debug("cannot fetch the replicated state from the standby; creating the task without it", zap.String("task_id", id), zap.Error(err))
	}
}

// recentlyRestarted reports whether standbys may still keep the state that an earlier
// process of this scheduler replicated.
func (m *Manager) recentlyRestarted() bool { return time.Since(m.startedAt) < replication.Retention }

// revive restores a task from its replicated state. It returns nil if there is none,
// or if the state belongs to another version of the source than the record. Many
// peers call at the same time when a scheduler has died; they share one
// restoration. If the store has not confirmed the record, the state may be newer
// than the record, and another scheduler may turn out to own the task and still
// replicate to this one. In that case the standby store keeps the state.
func (m *Manager) revive(ctx context.Context, id string, assignment resolver.Assignment) (*entry, error) {
	recorded := assignment.Record != nil && !assignment.Unclaimed
	caller := ctx
	// Other callers share the result, so the first caller's end must not stop it.
	ctx = context.WithoutCancel(ctx)
	revived := m.revivals.DoChan(id, func() (any, error) {
		if e := m.find(id); e != nil {
			return e, nil
		}
		m.recallFromStandby(ctx, id)
		state, known := m.deps.StandbyStore.Get(id)
		if !known || recorded && differsFromRecord(assignment.Record, state.Update.Facts) {
			return m.find(id), nil // a concurrent call may have used the state
		}
		e, err := m.resume(id, cmp.Or(assignment.Record.GetUrl(), state.URL), follower.SourceFrom(state.Source), state.Update)
		if err == nil && recorded {
			m.deps.StandbyStore.Delete(id) // the task has the state now
		}
		return e, err
	})
	select {
	case r := <-revived:
		e, _ := r.Val.(*entry)
		return e, r.Err
	case <-caller.Done():
		return nil, caller.Err()
	}
}

// differsFromRecord reports whether the record is of another version of the source than
// the replicated facts. A former standby receives no update when a task starts
// from scratch with a new version.
func differsFromRecord(record *registryv1.TaskRecord, facts *swarm.Facts) bool {
	if facts == nil || record.GetPieceSize() == 0 {
		return false
	}
	source := record.GetSource()
	switch {
	case record.GetPieceSize() != facts.PieceSize:
		return true
	case source.GetLength() >= 0 && facts.Length >= 0 && source.GetLength() != facts.Length:
		return true
	case source.GetEtag() != "" && facts.ETag != "":
		return source.GetEtag() != facts.ETag
	}
	return source.GetLastModified() != "" && facts.LastModified != "" && source.GetLastModified() != facts.LastModified
}

// resume creates a task of another scheduler from its replicated state, or returns the
// existing one. Restoring a task with many peers and pieces takes long, so it is
// done without holding mu, and discarded if the task exists by then.
func (m *Manager) resume(id, url string, source follower.Source, state swarm.Update) (*entry, error) {
	source.Resumed = true
	created := task.New(id, url, m.deps.Task)
	created.Restore(state)
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.tasks[id]; e != nil {
		return e, nil
	}
	if m.ctx.Err() != nil || m.phase != serving {
		return nil, errStopping
	}
	m.deps.Log.Info("taking over a task of another scheduler",
		zap.String("task_id", id), zap.Int("peers", len(state.Peers)), zap.Int("pieces", len(state.Pieces)))
	return m.startTask(created, source), nil
}

// restoreIfOwned restores a task whose state was replicated, by another scheduler or by
// this one before a restart, if this scheduler answers for it now. Otherwise
// Register would create it without that state. While no registry is available it
// is restored in any case, just as Register creates any task then.
func (m *Manager) restoreIfOwned(ctx context.Context, id string) error {
	if _, found := m.refused(id); found {
		return nil // there was nothing of the task to replicate
	}
	if m.find(id) != nil || !m.deps.StandbyStore.Has(id) && !m.recentlyRestarted() {
		return nil
	}
	_, err := m.Get(ctx, id, false)
	switch rpcerr.ReasonOf(err) {
	case rpcerr.TaskNotFound:
		return nil // Register creates it from scratch
	case rpcerr.StoreUnavailable:
		_, err = m.revive(ctx, id, resolver.Assignment{})
	}
	return err
}
