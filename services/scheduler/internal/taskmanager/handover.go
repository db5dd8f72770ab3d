package taskmanager

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
)

// maxHandovers is the number of tasks that are handed over at the same time.
const maxHandovers = 32

// HandOver makes the standbys the schedulers of all tasks, once they have confirmed the
// latest updates or half of the time until ctx's deadline has passed. From then on
// calls are redirected to them.
func (m *Manager) HandOver(ctx context.Context) error {
	m.enter(handingOver)
	flushErr := m.flush(ctx) // an outdated standby is better than none
	var work errgroup.Group
	work.SetLimit(maxHandovers)
	for _, e := range m.entries() {
		to, ok := m.deps.Replicator.Standby(e.ID)
		if !ok {
			continue // there is no other scheduler
		}
		work.Go(func() error {
			_, err := m.deps.Follower.Resolver.HandOver(ctx, e.ID, to.ID)
			return err
		})
	}
	if err := errors.Join(flushErr, work.Wait()); err != nil {
		return fmt.Errorf("handing tasks over: %w", err)
	}
	return nil
}

// yieldFlushTimeout is how long yield waits for the standby to confirm the latest
// updates.
const yieldFlushTimeout = 500 * time.Millisecond

// yield hands a task over to its standby and returns NOT_OWNER, if no CDN answers this
// scheduler but one answers the standby. It asks the standby first: if all CDNs
// are down, tasks would be handed back and forth otherwise.
func (m *Manager) yield(ctx context.Context, id string, claimed bool) error {
	if !m.deps.Reachability.Isolated(ctx) {
		return nil
	}
	to, ok := m.deps.Replicator.Standby(id)
	if !ok {
		return nil
	}
	log := m.deps.Log.With(zap.String("task_id", id), zap.String("scheduler_id", to.ID))
	if reachable, err := m.deps.Reachability.ReachableFrom(ctx, to.Endpoint); len(reachable) == 0 {
		log.Debug("no CDN answers this scheduler or the task's standby; keeping the task", zap.Error(err))
		return nil
	}
	flushing, cancel := context.WithTimeout(ctx, yieldFlushTimeout)
	defer cancel()
	flushErr := m.deps.Replicator.Flush(flushing, to.ID) // an outdated standby is better than none
	scheduler, err := m.deps.Follower.Resolver.HandOver(ctx, id, to.ID)
	switch {
	case err != nil:
		log.Warn("no CDN answers this scheduler, and handing the task over to its standby failed; keeping the task", zap.Error(err))
		return nil
	case scheduler != "" && scheduler != to.ID:
		return nil // another scheduler has taken over: the next resolve finds it
	case scheduler == "" && claimed:
		return nil // the store has lost the record: it must be restored first
	}
	log.Warn("no CDN answers this scheduler; handed the task over to its standby", zap.NamedError("flush", flushErr))
	return resolver.NotOwner(to.ID, to.Endpoint)
}

// flush waits until the standbys have confirmed all updates, for at most half of the
// time until ctx's deadline.
func (m *Manager) flush(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return m.deps.Replicator.Flush(ctx)
}
