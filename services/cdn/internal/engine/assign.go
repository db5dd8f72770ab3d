package engine

import (
	"context"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Assign sets the standing of this instance to a task, as its record states it. It does
// not block. A standing of an older epoch is ignored. A replica starts to copy the task.
// An owner continues a copy under way, but it starts a fetch only when a Seed brings the
// source.
func (eng *Engine) Assign(id task.ID, s task.Standing) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	if eng.stopped {
		return
	}
	if old, known := eng.standings[id]; known && old.Epoch > s.Epoch {
		return
	}
	if e := eng.entries[id]; e != nil {
		if epoch, _, _, _ := e.task.state(); epoch > s.Epoch {
			return
		}
	}
	eng.standings[id] = s
	eng.applyStanding(id, s)
}

// applyStanding changes the goal of a task to fit its standing. The caller holds mu.
func (eng *Engine) applyStanding(id task.ID, s task.Standing) {
	if eng.workCtx == nil || eng.stopped {
		return // Run has not started and will apply it, or has ended
	}
	e := eng.entries[id]
	if e != nil && (e.deleteAfterWork || e.removing) {
		e.copyAfterRemoval = !s.Mine && !e.deleteAfterWork
		return
	}
	if s.Mine {
		if e != nil {
			eng.promote(e, s)
		}
		return
	}
	if e == nil {
		e = eng.addEntry(id)
	}
	_, owner, whole, _ := e.task.state()
	switch {
	case owner:
		eng.Logger.Info("another CDN owns the task now; this one continues as a replica", zap.String("task_id", string(id)),
			zap.String("owner", s.Owner), zap.Int64("epoch", s.Epoch))
		e.task.stepDown(s.Epoch)
		if !whole {
			eng.setGoal(e, goal{kind: copying, from: s.Owner})
		}
	case whole:
	default:
		eng.ensureCopying(e, s)
	}
}

// ensureCopying starts to copy a task. If a copy from the same owner is under way, it
// notifies that copy of the changed standing. The caller holds mu.
func (eng *Engine) ensureCopying(e *entry, s task.Standing) {
	if !e.working || e.goal.kind != copying || e.goal.from != s.Owner {
		eng.setGoal(e, goal{kind: copying, from: s.Owner})
		return
	}
	select {
	case e.standingChanged <- struct{}{}:
	default: // a notification is pending already
	}
}

// promote applies a standing that makes this instance the owner. A copy under way
// continues if there are other copies: it may take long until a scheduler sends a Seed,
// and until then the only whole copy may be that of the previous owner, which may be
// about to stop. The caller holds mu.
func (eng *Engine) promote(e *entry, s task.Standing) {
	if e.goal.kind == copying {
		if len(s.Others) > 0 {
			eng.ensureCopying(e, s)
		} else {
			eng.setGoal(e, goal{})
		}
	}
	e.task.correctRecord(s)
}

// Release removes the standing of a task, because its record does not name this
// instance any more. A copy under way is stopped. A whole copy stays on disk and is
// served.
func (eng *Engine) Release(id task.ID) {
	eng.mu.Lock()
	defer eng.mu.Unlock()
	delete(eng.standings, id)
	e := eng.entries[id]
	if e == nil {
		return
	}
	e.copyAfterRemoval = false
	if e.goal.kind == copying && !e.deleteAfterWork && !e.removing {
		eng.setGoal(e, goal{})
	}
}

// Inventory returns all copies on disk, whole or partial, each with the newest epoch of
// its task that this instance has received.
func (eng *Engine) Inventory(ctx context.Context) ([]task.Inventory, error) {
	all, err := eng.Files.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	eng.mu.Lock()
	defer eng.mu.Unlock()
	for i := range all {
		item := &all[i]
		if s, known := eng.standings[item.ID]; known {
			item.Epoch = max(item.Epoch, s.Epoch)
		}
		if e := eng.entries[item.ID]; e != nil {
			epoch, _, _, _ := e.task.state()
			item.Epoch = max(item.Epoch, epoch)
		}
	}
	return all, nil
}
