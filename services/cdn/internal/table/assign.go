package table

import (
	"context"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Assign tells what the record of a task says of it. It does not wait. The
// newest epoch wins: an older one is ignored. An owner fetches nothing before a
// Seed brings the source, but goes on to copy what it was copying; a replica
// copies until it is whole.
func (tb *Table) Assign(id task.ID, s task.Standing) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	if tb.stopped {
		return
	}
	if old, known := tb.standings[id]; known && old.Epoch > s.Epoch {
		return
	}
	if e := tb.entries[id]; e != nil {
		if epoch, _, _, _ := e.task.stands(); epoch > s.Epoch {
			return
		}
	}
	tb.standings[id] = s
	tb.assign(id, s)
}

// assign does what a standing asks for. The caller holds mu.
func (tb *Table) assign(id task.ID, s task.Standing) {
	if tb.base == nil || tb.stopped {
		return // Run does it, or it is too late
	}
	e := tb.entries[id]
	if e != nil && (e.doomed || e.leaving) {
		e.again = !s.Mine && !e.doomed
		return
	}
	if s.Mine {
		if e != nil {
			tb.promote(e, s)
		}
		return
	}
	if e == nil {
		e = tb.add(id)
	}
	_, owner, whole, _ := e.task.stands()
	switch {
	case owner:
		tb.Logger.Info("another owns the task now", zap.String("task_id", string(id)),
			zap.String("owner", s.Owner), zap.Int64("epoch", s.Epoch))
		e.task.standDown(s.Epoch)
		if !whole {
			tb.set(e, want{kind: copying, from: s.Owner})
		}
	case whole:
	default:
		tb.copy(e, s)
	}
}

// copy has the task copied, or tells the copy under way that there is news. The
// caller holds mu.
func (tb *Table) copy(e *entry, s task.Standing) {
	if !e.busy || e.want.kind != copying || e.want.from != s.Owner {
		tb.set(e, want{kind: copying, from: s.Owner})
		return
	}
	select {
	case e.news <- struct{}{}:
	default: // it is going to look
	}
}

// promote is for an instance that is the owner by its record. Nobody may ask it
// to seed the task for long, and the owner before may be about to leave with
// the only whole copy: a copy under way goes on. The caller holds mu.
func (tb *Table) promote(e *entry, s task.Standing) {
	if e.want.kind == copying {
		if len(s.Others) > 0 {
			tb.copy(e, s)
		} else {
			tb.set(e, want{})
		}
	}
	e.task.correct(s)
}

// Release tells that no record names this instance for the task any more: a
// copy under way stops, a whole one stays on disk and is served.
func (tb *Table) Release(id task.ID) {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	delete(tb.standings, id)
	e := tb.entries[id]
	if e == nil {
		return
	}
	e.again = false
	if e.want.kind == copying && !e.doomed && !e.leaving {
		tb.set(e, want{})
	}
}

// Inventory is all that is on disk, whole or not.
func (tb *Table) Inventory(ctx context.Context) ([]task.Inventory, error) {
	all, err := tb.Files.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	for i := range all {
		item := &all[i]
		if s, known := tb.standings[item.ID]; known {
			item.Epoch = max(item.Epoch, s.Epoch)
		}
		if e := tb.entries[item.ID]; e != nil {
			epoch, _, _, _ := e.task.stands()
			item.Epoch = max(item.Epoch, epoch)
		}
	}
	return all, nil
}
