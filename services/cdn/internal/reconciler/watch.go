package reconciler

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

// streamTimeout is how long a registry may take for its next message until it has
// told everything; then another is asked.
const streamTimeout = 10 * time.Second

// maxWatchDelay is the longest pause before the records are asked for again.
const maxWatchDelay = 5 * time.Second

// watchRecords follows the records that name this instance until ctx ends.
func (r *Reconciler) watchRecords(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		complete, err := r.followStream(ctx)
		if complete {
			failures = 0
		}
		failures++
		if ctx.Err() == nil && failures == 3 { // a registry that is restarted is no news
			r.log.Warn("the registry does not tell which tasks are this instance's; going on with those that are known", zap.Error(err))
		}
		_ = r.send(ctx, func(s *state) { s.complete = false })
		sleep(ctx, min(backOff(r.options.RetryDelay, failures), maxWatchDelay))
	}
}

// followStream takes what one stream tells until it ends, and says whether it told all.
func (r *Reconciler) followStream(ctx context.Context) (complete bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(streamTimeout, cancel)
	defer silent.Stop()
	stream, err := r.registry.WatchTasks(ctx, &registryv1.WatchTasksRequest{Role: cluster.CDN, MemberId: r.id})
	if err != nil {
		return false, fmt.Errorf("watching the tasks of this cdn: %w", err)
	}
	if err := r.send(ctx, (*state).streamStarted); err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return complete, fmt.Errorf("watching the tasks of this cdn: %w", err)
		}
		if complete = complete || m.GetComplete(); complete {
			silent.Stop()
		} else {
			silent.Reset(streamTimeout)
		}
		if err := r.send(ctx, func(s *state) { s.applyMessage(m) }); err != nil {
			return complete, err
		}
	}
}

// sleep waits, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
