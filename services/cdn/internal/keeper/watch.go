package keeper

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

// silence is how long a registry may take for its next message until it has
// told everything; then another is asked.
const silence = 10 * time.Second

// mostPause is the longest pause before the records are asked for again.
const mostPause = 5 * time.Second

// watch follows the records that name this instance until ctx ends.
func (k *Keeper) watch(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		complete, err := k.follow(ctx)
		if complete {
			failures = 0
		}
		failures++
		if ctx.Err() == nil && failures == 3 { // a registry that is restarted is no news
			k.log.Warn("the registry does not tell which tasks are this instance's; going on with those that are known", zap.Error(err))
		}
		_ = k.send(ctx, func(d *desk) { d.complete = false })
		pause(ctx, min(backOff(k.options.RetryDelay, failures), mostPause))
	}
}

// follow takes what one stream tells until it ends, and says whether it told all.
func (k *Keeper) follow(ctx context.Context) (complete bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(silence, cancel)
	defer silent.Stop()
	stream, err := k.registry.WatchTasks(ctx, &registryv1.WatchTasksRequest{Role: cluster.CDN, MemberId: k.id})
	if err != nil {
		return false, fmt.Errorf("watching the tasks of this cdn: %w", err)
	}
	if err := k.send(ctx, (*desk).begun); err != nil {
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
			silent.Reset(silence)
		}
		if err := k.send(ctx, func(d *desk) { d.told(m) }); err != nil {
			return complete, err
		}
	}
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
