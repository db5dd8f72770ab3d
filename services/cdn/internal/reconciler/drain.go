package reconciler

import (
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// handover holds the progress of the moves to other CDNs while this instance drains. It
// is a part of state.
//
//	pending --another CDN owns the task----------> moved
//	pending --NO_CDN, NOT_FOUND, or released-----> removed; a task without a taker stays owned here
//	pending --no other CDN accepts tasks---------> removed
type handover struct {
	pending map[task.ID]struct{}
	moved   map[task.ID]struct{}
	done    chan struct{} // closed when pending is empty; nil unless Handover waits
}

func newHandover() *handover {
	return &handover{pending: make(map[task.ID]struct{}), moved: make(map[task.ID]struct{})}
}

// recordChanged processes a change of a record.
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

// removed processes a record that names this instance no longer.
func (h *handover) removed(id task.ID) {
	delete(h.moved, id)
	h.resolve(id)
}

// refused processes a task that no other CDN accepts. This instance keeps it.
func (h *handover) refused(id task.ID) { h.resolve(id) }

// noTarget processes that no other CDN accepts tasks.
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

// listInventory lists the copies on disk in the background if this instance drains, and
// clears the list if it does not.
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
		_ = s.r.send(s.ctx, func(s *state) { s.inventoryListed(all, err) }) // fails only if Run ends
	})
}

func (s *state) inventoryListed(all []task.Inventory, err error) {
	s.listingInventory = false
	if !s.draining() {
		return
	}
	if err != nil {
		s.r.log.Warn("cannot list the copies on disk; moving the tasks without checking other copies", zap.Error(err))
	}
	s.inventory = make(map[task.ID]task.Inventory, len(all))
	for _, own := range all {
		s.inventory[own.ID] = own
	}
	s.retryPlacement(time.Now())
}

// moveAllAtOnce moves the tasks that are still owned without waiting for copies.
func (s *state) moveAllAtOnce() {
	s.moveAtOnce = true
	for _, j := range s.jobs {
		j.notBefore = time.Time{}
	}
	s.retryPlacement(time.Now())
}

// startHandover begins to move all owned tasks. The returned channel is closed when no
// task is left that another CDN accepts.
func (s *state) startHandover() <-chan struct{} {
	s.updateMembers(s.r.members.Members(cluster.CDN), time.Now()) // Run may not have received the latest list yet
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

// movedCopies returns the local copies of the tasks that were moved.
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
	s.r.log.Info("moved the owned tasks to other CDNs; waiting for their copies", zap.Int("tasks", len(s.handover.moved)), zap.Int("copies", len(moved)))
	return moved
}

// ownerEndpoints returns the endpoints of the owners of the given tasks. The endpoint of
// an owner that is not a member is empty. The result has no tasks whose records do not
// name this instance, and no tasks at all if no other CDN accepts tasks.
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
