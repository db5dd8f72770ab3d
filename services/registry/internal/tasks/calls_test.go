package tasks_test

import (
	"context"
	"fmt"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/tasks"
)

// resolve starts a call of a scheduler, with or without its last record, and with
// reports of losses that are true or false.
func (h *history) resolve(s *simScheduler, id string, undisturbed bool) {
	req := ownership.Resolve{Scheduler: s.ID, URL: "http://127.0.0.1/"}
	if last, ok := s.last[id]; ok && (undisturbed || h.IntN(5) > 0) {
		req.Last = &last
		if !undisturbed && h.IntN(4) == 0 {
			req.LostOwner = last.Owner
		}
		if !undisturbed && h.IntN(8) == 0 {
			req.LostScheduler = last.Scheduler
		}
	}
	if !undisturbed && h.IntN(6) == 0 {
		req.Excluded = append(req.Excluded, pick(h, h.cdns).ID)
	}
	h.start(&op{scheduler: s.ID, req: req}, func(ctx context.Context, n *simNode) {
		got, err := n.tasks.Resolve(ctx, id, req)
		if err != nil {
			return
		}
		if !got.Unclaimed {
			h.store.checkAnswer(req.Last, got.Task)
		}
		if got.Task.Epoch >= s.last[id].Epoch {
			s.last[id] = got.Task
		}
	})
}

// work makes a CDN copy a few pieces of a task that names it, according to a record that
// may be outdated. An owner then writes what it has found out.
func (h *history) work(c *simCDN, id string) {
	o := &op{cdn: c.ID}
	more := 1 + h.IntN(totalPieces)
	fresh := h.IntN(2) == 0
	version := fmt.Sprint("v", h.versions[id])
	h.start(o, func(ctx context.Context, n *simNode) {
		cur, err := n.tasks.Get(ctx, id, fresh)
		if err != nil || !cur.Names(c.ID) || !c.alive {
			return
		}
		d := c.disk[id]
		d.epoch = max(d.epoch, cur.Epoch)
		if cur.Source != nil {
			version = cur.Source.ETag
		} else if cur.Owner != c.ID {
			c.disk[id] = d
			return // the version to copy is not known yet
		}
		if d.version != version {
			d.version, d.pieces = version, 0
		}
		d.pieces = min(totalPieces, d.pieces+more)
		c.disk[id] = d
		if cur.Owner != c.ID {
			return
		}
		u := tasks.Update{ID: id, Owner: c.ID, Epoch: cur.Epoch, Source: d.source(), PieceSize: 4, Status: record.StatusRunning}
		if d.whole() {
			u.Status = record.StatusSuccess
		} else if more == 2 && version == "v3" {
			u = tasks.Update{ID: id, Owner: c.ID, Epoch: cur.Epoch, Status: record.StatusFailed}
		}
		o.epoch = cur.Epoch
		_, _ = n.tasks.Update(ctx, u)
	})
}

// announce starts a call of a CDN that announces one copy on its disk.
func (h *history) announce(c *simCDN, id string) {
	d, ok := c.disk[id]
	if !ok || d.pieces == 0 || !c.alive {
		return
	}
	copied := d.copyOf(id)
	o := &op{cdn: c.ID}
	h.start(o, func(ctx context.Context, n *simNode) {
		named, unwanted, err := n.tasks.Announce(ctx, c.ID, []record.Copy{copied})
		if err != nil {
			return
		}
		if len(named)+len(unwanted) != 1 {
			h.store.violated("%s: one copy was announced, %d are named and %d unwanted", id, len(named), len(unwanted))
		}
		for _, task := range named {
			if task.Epoch < copied.Epoch {
				h.store.violated("%s: %s has received epoch %d, and was answered %d", id, c.ID, copied.Epoch, task.Epoch)
			}
			d := c.disk[id]
			d.epoch = max(d.epoch, task.Epoch)
			c.disk[id] = d
		}
		if len(unwanted) > 0 && copied.Whole && copied.Matches(o.read) {
			h.store.violated("%s: the whole copy of %s is unwanted although it matches the record %+v", id, c.ID, o.read)
		}
	})
}

func (h *history) repair(c *simCDN, id string) {
	h.start(&op{cdn: c.ID}, func(ctx context.Context, n *simNode) { _, _ = n.tasks.Repair(ctx, id, c.ID) })
}

func (h *history) move(id string) {
	to, epoch := "", int64(0)
	if h.IntN(2) == 0 {
		to = pick(h, h.cdns).ID
	}
	if h.IntN(2) == 0 {
		epoch = h.store.tasks[id].Epoch
	}
	h.start(&op{cdn: "operator"}, func(ctx context.Context, n *simNode) { _, _ = n.tasks.Move(ctx, id, epoch, to) })
}

func (h *history) resign(c *simCDN, id string) {
	keeps := h.IntN(2) == 0 // and may announce the copy again
	h.start(&op{cdn: c.ID, resigns: c.ID}, func(ctx context.Context, n *simNode) {
		if task, ok, err := n.tasks.Resign(ctx, id, c.ID); err == nil {
			if ok && task.Names(c.ID) {
				h.store.violated("%s: %s has resigned and is still named", id, c.ID)
			}
			if !keeps {
				delete(c.disk, id)
			}
		}
	})
}
