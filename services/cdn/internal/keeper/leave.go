package keeper

import (
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// handover is what is given away: what is still owed, and what has gone to
// another CDN while this instance drained. It is a part of desk.
type handover struct {
	owed  map[task.ID]struct{}
	moved map[task.ID]struct{}
	done  chan struct{} // closed when nothing is owed; nil while nobody waits
}

func newHandover() *handover {
	return &handover{owed: make(map[task.ID]struct{}), moved: make(map[task.ID]struct{})}
}

// owned is told how a record has changed.
func (h *handover) owned(before, rec record, self string, moving bool) {
	switch {
	case rec.owner == self:
		delete(h.moved, rec.id)
		return
	case before.owner == self && moving:
		h.moved[rec.id] = struct{}{}
	}
	h.settle(rec.id)
}

// gone is told that this instance has nothing to do with a task any more.
func (h *handover) gone(id task.ID) {
	delete(h.moved, id)
	h.settle(id)
}

// refused is told that nobody takes a task: it is kept.
func (h *handover) refused(id task.ID) { h.settle(id) }

// nobodyTakes is told that there is nobody to take anything.
func (h *handover) nobodyTakes() {
	clear(h.owed)
	h.finish()
}

func (h *handover) settle(id task.ID) {
	delete(h.owed, id)
	h.finish()
}

func (h *handover) finish() {
	if h.done != nil && len(h.owed) == 0 {
		close(h.done)
		h.done = nil
	}
}

// list has it found out what is on disk, when this instance begins to give away
// what it owns; when it ends to, that is forgotten.
func (d *desk) list() {
	if !d.moving() {
		d.held = nil
		return
	}
	if d.listing || d.held != nil {
		return
	}
	d.listing = true
	d.calls.Go(func() {
		all, err := d.engine.Inventory(d.ctx)
		_ = d.k.send(d.ctx, func(d *desk) { d.listed(all, err) }) // when Run is over nobody asks
	})
}

func (d *desk) listed(all []task.Inventory, err error) {
	d.listing = false
	if !d.moving() {
		return
	}
	if err != nil {
		d.k.log.Warn("listing what is to be handed over; handing it over blindly", zap.Error(err))
	}
	d.held = make(map[task.ID]task.Inventory, len(all))
	for _, own := range all {
		d.held[own.ID] = own
	}
	d.welcome(time.Now())
}

// hasten gives away at once what is still owned.
func (d *desk) hasten() {
	d.hurry = true
	for _, j := range d.jobs {
		j.notBefore = time.Time{}
	}
	d.welcome(time.Now())
}

// leave begins to give away everything that is owned. The channel is closed
// when nothing of that is left that somebody takes.
func (d *desk) leave() <-chan struct{} {
	d.meet(d.k.members.Members(cluster.CDN), time.Now()) // the last list may not have been heard of yet
	d.leaving = true
	d.list()
	done := make(chan struct{})
	d.handover.done = done
	if d.othersTake() {
		for id, e := range d.book.entries {
			if e.owner == d.k.id {
				d.handover.owed[id] = struct{}{}
			}
		}
	}
	d.welcome(time.Now())
	d.handover.finish()
	return done
}

// given is what was here of the tasks that have been given away.
func (d *desk) given() []task.Inventory {
	var given []task.Inventory
	for id := range d.handover.moved {
		if own := d.held[id]; own.Pieces > 0 {
			given = append(given, own)
		}
	}
	if len(d.handover.moved) == 0 {
		return nil
	}
	d.k.log.Info("others own all tasks that they take", zap.Int("tasks", len(d.handover.moved)), zap.Int("copies", len(given)))
	return given
}

// places is where the owners are, empty for one that is no member. What names
// this instance no more is not there, and nothing when everybody leaves.
func (d *desk) places(own []task.Inventory) map[task.ID]string {
	places := make(map[task.ID]string, len(own))
	if !d.othersTake() {
		return places
	}
	for _, copied := range own {
		if e := d.book.entries[copied.ID]; e != nil && e.owner != d.k.id {
			places[copied.ID] = d.crowd.members[e.owner].Endpoint
		}
	}
	return places
}
