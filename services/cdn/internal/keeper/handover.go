package keeper

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	// lookEvery is the pause between two looks at what others have.
	lookEvery = 100 * time.Millisecond
	// mostLooks is how many others are asked at a time.
	mostLooks   = 16
	lookTimeout = time.Second
	// mostSilence is how long a handover waits for a registry.
	mostSilence = 3 * time.Second
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

// leave begins to give away everything that is owned. The channel is closed
// when nothing of that is left that somebody takes.
func (d *desk) leave() <-chan struct{} {
	d.meet(d.k.members.Members(cluster.CDN), time.Now()) // the last list may not have been heard of yet
	d.leaving = true
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

// Handover makes other CDNs the owners of all that this instance owns, and
// waits until they have as much of it as this one. It returns the error of ctx
// when that ends before, and has no way back: the instance is to leave.
func (k *Keeper) Handover(ctx context.Context) error {
	done, err := ask(ctx, k, (*desk).leave)
	if err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	if err := k.awaitOwners(ctx, done); err != nil {
		return fmt.Errorf("handing over: not all tasks have another owner: %w", err)
	}
	return k.awaitCopies(ctx)
}

// awaitOwners waits until done is closed, but not long for a registry that
// does not answer: whoever takes over then will have to find out.
func (k *Keeper) awaitOwners(ctx context.Context, done <-chan struct{}) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for heard := time.Now(); ; {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			complete, err := ask(ctx, k, func(d *desk) bool { return d.complete })
			if err != nil {
				return err
			}
			if complete {
				heard = time.Now()
			}
			if time.Since(heard) > mostSilence {
				return errors.New("no registry answers")
			}
		}
	}
}

// awaitCopies waits until the new owners have what this instance has.
func (k *Keeper) awaitCopies(ctx context.Context) error {
	ids, err := ask(ctx, k, func(d *desk) []task.ID { return keys(d.handover.moved) })
	if err != nil || len(ids) == 0 {
		return err
	}
	engine, err := ask(ctx, k, func(d *desk) Engine { return d.engine })
	if err != nil {
		return err
	}
	inventory, err := engine.Inventory(ctx)
	if err != nil {
		return fmt.Errorf("listing what is to be handed over: %w", err)
	}
	have := make(map[task.ID]task.Inventory)
	for _, copied := range inventory {
		have[copied.ID] = copied
	}
	var open []task.Inventory
	for _, id := range ids {
		if own := have[id]; own.Pieces > 0 {
			open = append(open, own)
		}
	}
	k.log.Info("gave all tasks to others; waiting for their copies", zap.Int("tasks", len(ids)), zap.Int("copies", len(open)))
	for len(open) > 0 {
		if open, err = k.missing(ctx, open); err != nil {
			return err
		}
		if len(open) > 0 {
			pause(ctx, lookEvery)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("handing over: %d tasks are not whole elsewhere: %w", len(open), ctx.Err())
		}
	}
	return nil
}

// missing are those of which the new owner has less than this instance.
func (k *Keeper) missing(ctx context.Context, own []task.Inventory) ([]task.Inventory, error) {
	places, err := ask(ctx, k, func(d *desk) map[task.ID]string { return d.places(own) })
	if err != nil {
		return own, fmt.Errorf("handing over: %w", err)
	}
	var mu sync.Mutex
	var open []task.Inventory // guarded by mu
	var looks sync.WaitGroup
	slots := make(chan struct{}, mostLooks)
	for _, copied := range own {
		endpoint, wanted := places[copied.ID]
		if !wanted {
			continue
		}
		slots <- struct{}{}
		looks.Go(func() {
			defer func() { <-slots }()
			if !k.has(ctx, endpoint, copied) {
				mu.Lock()
				defer mu.Unlock()
				open = append(open, copied)
			}
		})
	}
	looks.Wait()
	return open, nil
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

// has asks whether the CDN at endpoint has as much of the task as this one.
func (k *Keeper) has(ctx context.Context, endpoint string, own task.Inventory) bool {
	if endpoint == "" {
		return false
	}
	conn, err := k.dial(endpoint)
	if err != nil {
		k.log.Debug("asking another cdn for its copy", zap.String("endpoint", endpoint), zap.Error(err))
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	there, err := cdnv1.NewCdnServiceClient(conn).Stat(ctx, &cdnv1.StatRequest{TaskId: string(own.ID)})
	if err != nil {
		return false
	}
	return there.GetResult() != nil || !own.Whole && int(there.GetPieceCount()) >= own.Pieces
}

func keys(set map[task.ID]struct{}) []task.ID {
	all := make([]task.ID, 0, len(set))
	for id := range set {
		all = append(all, id)
	}
	return all
}
