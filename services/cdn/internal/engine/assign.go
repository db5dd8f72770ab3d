package engine

import (
	"context"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Assign tells what the record of a task says of it. It does not wait. The
// newest epoch wins: an older one is ignored. An owner fetches nothing before a
// Seed brings the source, but goes on to copy what it was copying; a replica
// copies until it is whole.
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

// applyStanding does what a standing asks for. The caller holds mu.
func (eng *Engine) applyStanding(id task.ID, s task.Standing) {
	if eng.workCtx == nil || eng.stopped {
		return // Run does it, or it is too late
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
		eng.Logger.Info("another owns the task now", zap.String("task_id", string(id)),
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

// ensureCopying has the task copied, or tells the copy under way that there is news. The
// caller holds mu.
func (eng *Engine) ensureCopying(e *entry, s task.Standing) {
	if !e.working || e.goal.kind != copying || e.goal.from != s.Owner {
		eng.setGoal(e, goal{kind: copying, from: s.Owner})
		return
	}
	select {
	case e.standingChanged <- struct{}{}:
	default: // it is going to look
	}
}

// promote is for an instance that is the owner by its record. Nobody may ask it
// to seed the task for long, and the owner before may be about to leave with
// the only whole copy: a copy under way goes on. The caller holds mu.
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

// Release tells that no record names this instance for the task any more: a
// copy under way stops, a whole one stays on disk and is served.
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

// Inventory is all that is on disk, whole or not.
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
