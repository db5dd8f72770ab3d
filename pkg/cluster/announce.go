package cluster

import (
	"context"
	"fmt"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
)

const (
	// callTimeout bounds one heartbeat.
	callTimeout = time.Second
	// retryAfter is the pause behind a heartbeat that failed.
	retryAfter = 250 * time.Millisecond
	// leaveTimeout bounds the farewell.
	leaveTimeout = time.Second
	// patience is how long nothing is said of a registry that is not there yet:
	// processes may start in any order.
	patience = 5 * time.Second
)

// Announce keeps the member's lease alive until ctx ends, then leaves. A
// registry that cannot be reached is tried again for ever: nothing steps down
// because nobody listens.
func Announce(ctx context.Context, registry registryv1.RegistryServiceClient, m Member, log *zap.Logger) error {
	log = log.With(zap.Stringer("role", m.Role), zap.String("member_id", m.ID))
	known, warned, since, limit := false, false, time.Now(), callTimeout
	for ctx.Err() == nil {
		pause := retryAfter
		ttl, err := heartbeat(ctx, registry, m, limit)
		switch {
		case err == nil:
			pause = ttl / 3
			// A registry that hangs is found out while there is time to ask
			// another: the lease goes on for two thirds when this is asked next.
			limit = min(callTimeout, pause)
			if !known {
				log.Info("joined the cluster")
			}
			known, warned = true, false
		case ctx.Err() == nil:
			if !warned && (known || time.Since(since) >= patience) {
				log.Warn("the registry does not take the heartbeat; trying on", zap.Error(err))
				warned = true
			}
			// Who may have to join anew gets the time for it.
			known, limit = false, callTimeout
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	return leave(context.WithoutCancel(ctx), registry, m, log)
}

func heartbeat(ctx context.Context, registry registryv1.RegistryServiceClient, m Member, limit time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	resp, err := registry.Heartbeat(ctx, &registryv1.HeartbeatRequest{Member: m.proto()})
	if err != nil {
		return 0, fmt.Errorf("heartbeat: %w", err)
	}
	return max(resp.GetTtl().AsDuration(), 3*retryAfter), nil
}

// leave is best effort: the lease ends by itself.
func leave(ctx context.Context, registry registryv1.RegistryServiceClient, m Member, log *zap.Logger) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if _, err := registry.Leave(ctx, &registryv1.LeaveRequest{Role: m.Role, Id: m.ID}); err != nil {
		log.Warn("could not say good-bye; the lease will end by itself", zap.Error(err))
		return nil
	}
	log.Info("left the cluster")
	return nil
}
