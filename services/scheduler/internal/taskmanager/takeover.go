package taskmanager

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/claim"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/mirror"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// Get gives a task that is here, or that has to be: one whose scheduler is dead
// is taken over, and made from what was remembered of it here. Without any
// memory it is made only to adopt who asks. Else it says NOT_OWNER when
// another scheduler answers for it, or TASK_NOT_FOUND. While no registry answers,
// a task is made of the memory whose scheduler is not heard any more.
func (m *Manager) Get(ctx context.Context, id string, adopt bool) (*task.Task, error) {
	e := m.find(id)
	switch {
	case e != nil:
		return e.Task, nil
	case m.ctx.Err() != nil:
		return nil, errStopping
	}
	holding, err := m.deps.Follower.Claims.Whose(ctx, id, m.mayTakeOver)
	// Others were given the same answer, and may have made it meanwhile.
	if e := m.find(id); e != nil {
		return e.Task, nil
	}
	orphaned := rpcerr.ReasonOf(err) == rpcerr.StoreUnavailable && m.deps.Book.Orphaned(id)
	if err != nil && !orphaned {
		return nil, err
	}
	e, failed := m.revive(ctx, id, holding)
	if e == nil && failed == nil && adopt && !orphaned {
		url := holding.Record.GetUrl()
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
	return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "nothing is known of task %s but its record", id)
}

func (m *Manager) find(id string) *entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tasks[id]
}

// mayTakeOver tells whether tasks are taken from dead schedulers.
func (m *Manager) mayTakeOver() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.leaving && m.ctx.Err() == nil
}

// recallFromStandby asks the standby of a task for what this scheduler may have known of it
// before it was restarted. A standby keeps that for a while.
func (m *Manager) recallFromStandby(ctx context.Context, id string) {
	if m.deps.Book.Knows(id) || !m.recentlyRestarted() {
		return
	}
	if err := m.deps.Mirror.Recall(ctx, id, m.deps.Book); err != nil {
		m.deps.Log.Debug("the standby does not say what it knows", zap.String("task_id", id), zap.Error(err))
	}
}

// recentlyRestarted tells whether this scheduler was restarted so lately that standbys
// keep what it had told them.
func (m *Manager) recentlyRestarted() bool { return time.Since(m.startedAt) < mirror.Keep }

// revive makes a task of what is remembered of it; it is nil if nothing is, or
// only of another version than the record's. A whole crowd asks at the same time
// when a scheduler has died: the memory is looked for once for all of them.
// Without a record that the store agrees to, the memory may be of a newer version
// than the record, and the task may be found to be another's, who tells of it
// still: the book keeps that.
func (m *Manager) revive(ctx context.Context, id string, holding claim.Holding) (*entry, error) {
	recorded := holding.Record != nil && !holding.Unclaimed
	// Others rely on it though the first who asked may leave.
	ctx = context.WithoutCancel(ctx)
	created, err, _ := m.revivals.Do(id, func() (any, error) {
		if e := m.find(id); e != nil {
			return e, nil
		}
		m.recallFromStandby(ctx, id)
		state, known := m.deps.Book.Recall(id)
		if !known || recorded && differsFromRecord(holding.Record, state.Memory.Facts) {
			return m.find(id), nil // who made it took the memory
		}
		e, err := m.resume(id, cmp.Or(holding.Record.GetUrl(), state.URL), follower.SourceFrom(state.Source), state.Memory)
		if err == nil && recorded {
			m.deps.Book.Forget(id) // it is in the task now
		}
		return e, err
	})
	e, _ := created.(*entry)
	return e, err
}

// differsFromRecord tells whether a record is of another version than what was remembered:
// a former standby is not told of it when a task begins anew.
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

// resume makes a task that was another scheduler's, with what is remembered of
// it, unless it is here. That takes long for a crowd with a large file, and
// all calls wait for the table: it is done before, and in vain if the task is
// there then.
func (m *Manager) resume(id, url string, source follower.Source, state swarm.Update) (*entry, error) {
	source.Resumed = true
	created := task.New(id, url, m.deps.Task)
	created.Restore(state)
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.tasks[id]; e != nil {
		return e, nil
	}
	if m.ctx.Err() != nil || m.leaving {
		return nil, errStopping
	}
	m.deps.Log.Info("going on with a task that was another scheduler's",
		zap.String("task_id", id), zap.Int("peers", len(state.Peers)), zap.Int("pieces", len(state.Pieces)))
	return m.startTask(created, source), nil
}

// restoreIfOwned makes a task that was told of, by another scheduler or by this one
// before it was restarted, if it is this one's by now: without that its memory
// would be handed out as if it were. While no registry answers it is made all the
// same, as any task is then.
func (m *Manager) restoreIfOwned(ctx context.Context, id string) error {
	if m.find(id) != nil || !m.deps.Book.Knows(id) && !m.recentlyRestarted() {
		return nil
	}
	_, err := m.Get(ctx, id, false)
	switch rpcerr.ReasonOf(err) {
	case rpcerr.TaskNotFound:
		return nil // it begins anew
	case rpcerr.StoreUnavailable:
		_, err = m.revive(ctx, id, claim.Holding{})
	}
	return err
}
