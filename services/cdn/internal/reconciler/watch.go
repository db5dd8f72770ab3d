package reconciler

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

// streamTimeout bounds the time between two messages of a stream until all records
// were received. Then the stream is closed and another one is opened.
const streamTimeout = 10 * time.Second

// maxWatchDelay bounds the time before the next stream is opened.
const maxWatchDelay = 5 * time.Second

// watchRecords receives the records that name this instance until ctx ends.
func (r *Reconciler) watchRecords(ctx context.Context) {
	for failures := 0; ctx.Err() == nil; {
		complete, err := r.followStream(ctx)
		if complete {
			failures = 0
		}
		failures++
		if ctx.Err() == nil && failures == 3 { // fewer failures are normal when a registry restarts
			r.log.Warn("cannot watch the records of this CDN; retrying, and continuing with the known records", zap.Error(err))
		}
		_ = r.send(ctx, func(s *state) { s.complete = false })
		sleep(ctx, min(backOff(r.options.RetryDelay, failures), maxWatchDelay))
	}
}

// followStream applies the messages of one stream until it ends. It returns whether the
// stream has sent all records, and the error that ended it.
func (r *Reconciler) followStream(ctx context.Context) (complete bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	silent := time.AfterFunc(streamTimeout, cancel)
	defer silent.Stop()
	stream, err := r.registry.WatchTasks(ctx, &registryv1.WatchTasksRequest{Role: cluster.CDN, MemberId: r.id})
	if err != nil {
		return false, fmt.Errorf("watching the records of this CDN: %w", err)
	}
	if err := r.send(ctx, (*state).streamStarted); err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return complete, fmt.Errorf("watching the records of this CDN: %w", err)
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

// sleep blocks for the duration, or until ctx ends.
func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
