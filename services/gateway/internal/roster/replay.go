package roster

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

// Register forwards a registration and gives what the scheduler answered.
type Register func(context.Context, *schedulerv1.RegisterPeerRequest) (Facts, error)

// Replay forwards the registration of a client that a scheduler did not know
// when it was asked at since. Calls of one client that come together forward
// it once. It says whether the client is known now, so that what failed may be
// repeated: not if nothing is known of it here, and not if the task is no more
// what the client was told; then it has to register by itself.
func (r *Roster) Replay(ctx context.Context, key Key, since time.Time, register Register) (bool, error) {
	e := r.find(key)
	if e == nil {
		return false, nil
	}
	select {
	case e.turn <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for a registration to be repeated: %w", ctx.Err())
	}
	defer func() { <-e.turn }()
	if e.told.After(since) {
		return true, nil
	}
	req := &schedulerv1.RegisterPeerRequest{}
	if err := proto.Unmarshal(e.request, req); err != nil {
		return false, fmt.Errorf("reading a registration: %w", err)
	}
	req.Again = true
	facts, err := register(ctx, req)
	switch {
	case err != nil:
		r.replays.WithLabelValues("failed").Inc()
		return false, fmt.Errorf("registering a peer again: %w", err)
	case !e.facts.fit(facts):
		r.replays.WithLabelValues("changed").Inc()
		r.drop(e)
		return false, nil
	}
	r.replays.WithLabelValues("done").Inc()
	e.told = time.Now()
	return true, nil
}
