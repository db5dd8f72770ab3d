package taskmanager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/services/scheduler/internal/claim"
)

// maxHandovers is how many tasks are handed over at the same time.
const maxHandovers = 32

// HandOver gives the tasks that are here to their standbys, once those know the
// latest of them, or until ctx ends. Who asks here then is sent there.
func (m *Manager) HandOver(ctx context.Context) error {
	m.mu.Lock()
	m.leaving = true
	m.mu.Unlock()
	flushErr := m.flush(ctx) // one that is behind is better than none
	var work errgroup.Group
	work.SetLimit(maxHandovers)
	for _, e := range m.entries() {
		to, ok := m.deps.Mirror.Standby(e.ID)
		if !ok {
			continue // nobody is there
		}
		work.Go(func() error {
			_, err := m.deps.Follower.Claims.HandOver(ctx, e.ID, to.ID)
			return err
		})
	}
	if err := errors.Join(flushErr, work.Wait()); err != nil {
		return fmt.Errorf("handing tasks over: %w", err)
	}
	return nil
}

// yieldFlushTimeout is how long a task that is given away waits for its standby to know
// the latest of it.
const yieldFlushTimeout = 500 * time.Millisecond

// yield gives a task to its standby, and says NOT_OWNER then, if no CDN answers
// this scheduler and one answers that one. It is asked first: when the CDNs are
// gone for everybody tasks would be handed back and forth.
func (m *Manager) yield(ctx context.Context, id string, claimed bool) error {
	if !m.deps.Reach.Deaf(ctx) {
		return nil
	}
	to, ok := m.deps.Mirror.Standby(id)
	if !ok {
		return nil
	}
	log := m.deps.Log.With(zap.String("task_id", id), zap.String("scheduler_id", to.ID))
	if reachable, err := m.deps.Reach.HeardAt(ctx, to.Endpoint); len(reachable) == 0 {
		log.Debug("no CDN answers here, nor the task's standby", zap.Error(err))
		return nil
	}
	flushing, cancel := context.WithTimeout(ctx, yieldFlushTimeout)
	defer cancel()
	flushErr := m.deps.Mirror.Flush(flushing, to.ID) // one that is behind is better than none
	scheduler, err := m.deps.Follower.Claims.HandOver(ctx, id, to.ID)
	switch {
	case err != nil:
		log.Warn("no CDN answers here, and the task cannot be given to its standby", zap.Error(err))
		return nil
	case scheduler != "" && scheduler != to.ID:
		return nil // the registry says whose it is by now
	case scheduler == "" && claimed:
		return nil // the record has to be put back first
	}
	log.Warn("no CDN answers here; the task's standby goes on with it", zap.NamedError("flush", flushErr))
	return claim.NotOwner(to.ID, to.Endpoint)
}

// flush waits for the standbys for half of the time that there is.
func (m *Manager) flush(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return m.deps.Mirror.Flush(ctx)
}
