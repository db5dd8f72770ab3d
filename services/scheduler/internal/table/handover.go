package table

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/services/scheduler/internal/claim"
)

// handovers is how many tasks are handed over at the same time.
const handovers = 32

// HandOver gives the tasks that are here to their standbys, once those know the
// latest of them, or until ctx ends. Who asks here then is sent there.
func (t *Table) HandOver(ctx context.Context) error {
	t.mu.Lock()
	t.leaving = true
	t.mu.Unlock()
	told := t.flush(ctx) // one that is behind is better than none
	var work errgroup.Group
	work.SetLimit(handovers)
	for _, e := range t.entries() {
		to, ok := t.deps.Mirror.Standby(e.ID)
		if !ok {
			continue // nobody is there
		}
		work.Go(func() error {
			_, err := t.deps.Follower.Claims.HandOver(ctx, e.ID, to.ID)
			return err
		})
	}
	if err := errors.Join(told, work.Wait()); err != nil {
		return fmt.Errorf("handing tasks over: %w", err)
	}
	return nil
}

// yieldFlush is how long a task that is given away waits for its standby to know
// the latest of it.
const yieldFlush = 500 * time.Millisecond

// yield gives a task to its standby, and says NOT_OWNER then, if no CDN answers
// this scheduler and one answers that one. It is asked first: when the CDNs are
// gone for everybody tasks would be handed back and forth.
func (t *Table) yield(ctx context.Context, id string, claimed bool) error {
	if !t.deps.Reach.Deaf(ctx) {
		return nil
	}
	to, ok := t.deps.Mirror.Standby(id)
	if !ok {
		return nil
	}
	log := t.deps.Log.With(zap.String("task_id", id), zap.String("scheduler_id", to.ID))
	if heard, err := t.deps.Reach.HeardAt(ctx, to.Endpoint); len(heard) == 0 {
		log.Debug("no CDN answers here, nor the task's standby", zap.Error(err))
		return nil
	}
	flushing, cancel := context.WithTimeout(ctx, yieldFlush)
	defer cancel()
	told := t.deps.Mirror.Flush(flushing, to.ID) // one that is behind is better than none
	scheduler, err := t.deps.Follower.Claims.HandOver(ctx, id, to.ID)
	switch {
	case err != nil:
		log.Warn("no CDN answers here, and the task cannot be given to its standby", zap.Error(err))
		return nil
	case scheduler != "" && scheduler != to.ID:
		return nil // the registry says whose it is by now
	case scheduler == "" && claimed:
		return nil // the record has to be put back first
	}
	log.Warn("no CDN answers here; the task's standby goes on with it", zap.NamedError("flush", told))
	return claim.NotOwner(to.ID, to.Endpoint)
}

// flush waits for the standbys for half of the time that there is.
func (t *Table) flush(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return t.deps.Mirror.Flush(ctx)
}
