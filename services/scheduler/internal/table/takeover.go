package table

import (
	"cmp"
	"context"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/mirror"
	"github.com/supernode-ha/supernode/services/scheduler/internal/seed"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// Get gives a task that is here, or that has to be: one whose scheduler is dead
// is taken over, and made from what was remembered of it here. Without any
// memory it is made only to adopt who asks. Else it says NOT_OWNER when
// another scheduler answers for it, or TASK_NOT_FOUND.
func (t *Table) Get(ctx context.Context, id string, adopt bool) (*task.Task, error) {
	e := t.find(id)
	switch {
	case e != nil:
		return e.Task, nil
	case t.root.Err() != nil:
		return nil, errStopping
	}
	record, err := t.deps.Follower.Claims.Whose(ctx, id, t.takes)
	// Others were given the same answer, and may have made it meanwhile.
	if e := t.find(id); e != nil {
		return e.Task, nil
	}
	if err != nil {
		return nil, err
	}
	e, err = t.revive(ctx, id, record.GetUrl(), true)
	if e == nil && err == nil && adopt {
		e, err = t.resume(id, record.GetUrl(), seed.Source{URL: record.GetUrl()}, swarm.Memory{})
	}
	switch {
	case err != nil:
		return nil, err
	case e == nil:
		return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "nothing is known of task %s but its record", id)
	}
	return e.Task, nil
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
	if t.deps.Book.Knows(id) || time.Since(t.began) >= mirror.Keep {
		return
	}
	if err := t.deps.Mirror.Recall(ctx, id, t.deps.Book); err != nil {
		t.deps.Log.Debug("the standby does not say what it knows", zap.String("task_id", id), zap.Error(err))
	}
}

// revive makes a task of what is remembered of it; it is nil if nothing is. A
// whole crowd asks at the same time when a scheduler has died: the memory is
// looked for once for all of them. What is not claimed may be found to be
// another's, who tells of it still: the book keeps that.
func (t *Table) revive(ctx context.Context, id, url string, claimed bool) (*entry, error) {
	// Others rely on it though the first who asked may leave.
	ctx = context.WithoutCancel(ctx)
	made, err, _ := t.reviving.Do(id, func() (any, error) {
		if e := t.find(id); e != nil {
			return e, nil
		}
		t.askStandby(ctx, id)
		memory, known := t.deps.Book.Recall(id)
		if !known {
			return t.find(id), nil // who made it took the memory
		}
		e, err := t.resume(id, cmp.Or(url, memory.URL), seed.SourceFrom(memory.Source), memory.Memory)
		if err == nil && claimed {
			t.deps.Book.Forget(id) // it is in the task now
		}
		return e, err
	})
	e, _ := made.(*entry)
	return e, err
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

// recall makes a task that another scheduler told of, if it is this one's by
// now: without that its memory would be handed out as if it were. While no
// registry answers it is made all the same, as any task is then.
func (t *Table) recall(ctx context.Context, id string) error {
	if t.find(id) != nil {
		return nil
	}
	t.askStandby(ctx, id)
	if !t.deps.Book.Knows(id) {
		return nil
	}
	_, err := t.Get(ctx, id, false)
	switch rpcerr.ReasonOf(err) {
	case rpcerr.TaskNotFound:
		return nil // it begins anew
	case rpcerr.StoreUnavailable:
		_, err = t.revive(ctx, id, "", false)
	}
	return err
}
