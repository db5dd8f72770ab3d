package reconciler

import (
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// handover is what is given away: what is still owed, and what has gone to
// another CDN while this instance drained. It is a part of state.
type handover struct {
	pending map[task.ID]struct{}
	moved   map[task.ID]struct{}
	done    chan struct{} // closed when nothing is owed; nil while nobody waits
}

func newHandover() *handover {
	return &handover{pending: make(map[task.ID]struct{}), moved: make(map[task.ID]struct{})}
}

// recordChanged is told how a record has changed.
func (h *handover) recordChanged(before, rec record, self string, draining bool) {
	switch {
	case rec.owner == self:
		delete(h.moved, rec.id)
		return
	case before.owner == self && draining:
		h.moved[rec.id] = struct{}{}
	}
	h.resolve(rec.id)
}

// removed is told that this instance has nothing to do with a task any more.
func (h *handover) removed(id task.ID) {
	delete(h.moved, id)
	h.resolve(id)
}

// refused is told that nobody takes a task: it is kept.
func (h *handover) refused(id task.ID) { h.resolve(id) }

// noTarget is told that there is nobody to take anything.
func (h *handover) noTarget() {
	clear(h.pending)
	h.signalIfDone()
}

func (h *handover) resolve(id task.ID) {
	delete(h.pending, id)
	h.signalIfDone()
}

func (h *handover) signalIfDone() {
	if h.done != nil && len(h.pending) == 0 {
		close(h.done)
		h.done = nil
	}
}

// listInventory has it found out what is on disk, when this instance begins to give away
// what it owns; when it ends to, that is forgotten.
func (s *state) listInventory() {
	if !s.draining() {
		s.inventory = nil
		return
	}
	if s.listingInventory || s.inventory != nil {
		return
	}
	s.listingInventory = true
	s.background.Go(func() {
		all, err := s.engine.Inventory(s.ctx)
		_ = s.r.send(s.ctx, func(s *state) { s.inventoryListed(all, err) }) // when Run is over nobody asks
	})
}

func (s *state) inventoryListed(all []task.Inventory, err error) {
	s.listingInventory = false
	if !s.draining() {
		return
	}
	if err != nil {
		s.r.log.Warn("listing what is to be handed over; handing it over blindly", zap.Error(err))
	}
	s.inventory = make(map[task.ID]task.Inventory, len(all))
	for _, own := range all {
		s.inventory[own.ID] = own
	}
	s.retryPlacement(time.Now())
}

// moveAllAtOnce gives away at once what is still owned.
func (s *state) moveAllAtOnce() {
	s.moveAtOnce = true
	for _, j := range s.jobs {
		j.notBefore = time.Time{}
	}
	s.retryPlacement(time.Now())
}

// startHandover begins to give away everything that is owned. The channel is closed
// when nothing of that is left that somebody takes.
func (s *state) startHandover() <-chan struct{} {
	s.updateMembers(s.r.members.Members(cluster.CDN), time.Now()) // the last list may not have been heard of yet
	s.handingOver = true
	s.listInventory()
	done := make(chan struct{})
	s.handover.done = done
	if s.otherCDNAvailable() {
		for id, e := range s.index.entries {
			if e.owner == s.r.id {
				s.handover.pending[id] = struct{}{}
			}
		}
	}
	s.retryPlacement(time.Now())
	s.handover.signalIfDone()
	return done
}

// movedCopies is what was here of the tasks that have been given away.
func (s *state) movedCopies() []task.Inventory {
	var moved []task.Inventory
	for id := range s.handover.moved {
		if own := s.inventory[id]; own.Pieces > 0 {
			moved = append(moved, own)
		}
	}
	if len(s.handover.moved) == 0 {
		return nil
	}
	s.r.log.Info("others own all tasks that they take", zap.Int("tasks", len(s.handover.moved)), zap.Int("copies", len(moved)))
	return moved
}

// ownerEndpoints is where the owners are, empty for one that is no member. What names
// this instance no more is not there, and nothing when everybody leaves.
func (s *state) ownerEndpoints(own []task.Inventory) map[task.ID]string {
	endpoints := make(map[task.ID]string, len(own))
	if !s.otherCDNAvailable() {
		return endpoints
	}
	for _, copied := range own {
		if e := s.index.entries[copied.ID]; e != nil && e.owner != s.r.id {
			endpoints[copied.ID] = s.members.byID[e.owner].Endpoint
		}
	}
	return endpoints
}
