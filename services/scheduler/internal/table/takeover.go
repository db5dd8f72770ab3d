package table

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/claim"
	"github.com/supernode-ha/supernode/services/scheduler/internal/mirror"
	"github.com/supernode-ha/supernode/services/scheduler/internal/seed"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// Get gives a task that is here, or that has to be: one whose scheduler is dead
// is taken over, and made from what was remembered of it here. Without any
// memory it is made only to adopt who asks. Else it says NOT_OWNER when
// another scheduler answers for it, or TASK_NOT_FOUND. While no registry answers,
// a task is made of the memory whose scheduler is not heard any more.
func (t *Table) Get(ctx context.Context, id string, adopt bool) (*task.Task, error) {
	e := t.find(id)
	switch {
	case e != nil:
		return e.Task, nil
	case t.root.Err() != nil:
		return nil, errStopping
	}
	holding, err := t.deps.Follower.Claims.Whose(ctx, id, t.takes)
	// Others were given the same answer, and may have made it meanwhile.
	if e := t.find(id); e != nil {
		return e.Task, nil
	}
	unsaid := rpcerr.ReasonOf(err) == rpcerr.StoreUnavailable && t.deps.Book.Orphaned(id)
	if err != nil && !unsaid {
		return nil, err
	}
	e, failed := t.revive(ctx, id, holding)
	if e == nil && failed == nil && adopt && !unsaid {
		url := holding.Record.GetUrl()
		e, failed = t.resume(id, url, seed.Source{URL: url}, swarm.Memory{})
	}
	switch {
	case failed != nil:
		return nil, failed
	case e != nil:
		return e.Task, nil
	case unsaid:
		return nil, err
	}
	return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "nothing is known of task %s but its record", id)
}

func (t *Table) find(id string) *entry {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.tasks[id]
}

// takes tells whether tasks are taken from dead schedulers.
func (t *Table) takes() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return !t.leaving && t.root.Err() == nil
}

// askStandby asks the standby of a task for what this scheduler may have known of it
// before it was restarted. A standby keeps that for a while.
func (t *Table) askStandby(ctx context.Context, id string) {
	if t.deps.Book.Knows(id) || !t.mayHaveKnown() {
		return
	}
	if err := t.deps.Mirror.Recall(ctx, id, t.deps.Book); err != nil {
		t.deps.Log.Debug("the standby does not say what it knows", zap.String("task_id", id), zap.Error(err))
	}
}

// mayHaveKnown tells whether this scheduler was restarted so lately that standbys
// keep what it had told them.
func (t *Table) mayHaveKnown() bool { return time.Since(t.began) < mirror.Keep }

// revive makes a task of what is remembered of it; it is nil if nothing is, or
// only of another version than the record's. A whole crowd asks at the same time
// when a scheduler has died: the memory is looked for once for all of them.
// Without a record that the store agrees to, the memory may be of a newer version
// than the record, and the task may be found to be another's, who tells of it
// still: the book keeps that.
func (t *Table) revive(ctx context.Context, id string, holding claim.Holding) (*entry, error) {
	agreed := holding.Record != nil && !holding.Unclaimed
	// Others rely on it though the first who asked may leave.
	ctx = context.WithoutCancel(ctx)
	made, err, _ := t.reviving.Do(id, func() (any, error) {
		if e := t.find(id); e != nil {
			return e, nil
		}
		t.askStandby(ctx, id)
		memory, known := t.deps.Book.Recall(id)
		if !known || agreed && outdates(holding.Record, memory.Memory.Facts) {
			return t.find(id), nil // who made it took the memory
		}
		e, err := t.resume(id, cmp.Or(holding.Record.GetUrl(), memory.URL), seed.SourceFrom(memory.Source), memory.Memory)
		if err == nil && agreed {
			t.deps.Book.Forget(id) // it is in the task now
		}
		return e, err
	})
	e, _ := made.(*entry)
	return e, err
}

// outdates tells whether a record is of another version than what was remembered:
// a former standby is not told of it when a task begins anew.
func outdates(record *registryv1.TaskRecord, facts *swarm.Facts) bool {
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
func (t *Table) resume(id, url string, source seed.Source, memory swarm.Memory) (*entry, error) {
	source.Resumed = true
	made := task.New(id, url, t.deps.Task)
	made.Restore(memory)
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.tasks[id]; e != nil {
		return e, nil
	}
	if t.root.Err() != nil || t.leaving {
		return nil, errStopping
	}
	t.deps.Log.Info("going on with a task that was another scheduler's",
		zap.String("task_id", id), zap.Int("peers", len(memory.Peers)), zap.Int("pieces", len(memory.Pieces)))
	return t.begin(made, source), nil
}

// recall makes a task that was told of, by another scheduler or by this one
// before it was restarted, if it is this one's by now: without that its memory
// would be handed out as if it were. While no registry answers it is made all the
// same, as any task is then.
func (t *Table) recall(ctx context.Context, id string) error {
	if t.find(id) != nil || !t.deps.Book.Knows(id) && !t.mayHaveKnown() {
		return nil
	}
	_, err := t.Get(ctx, id, false)
	switch rpcerr.ReasonOf(err) {
	case rpcerr.TaskNotFound:
		return nil // it begins anew
	case rpcerr.StoreUnavailable:
		_, err = t.revive(ctx, id, claim.Holding{})
	}
	return err
}
