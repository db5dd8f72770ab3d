package registrations

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
func (s *Store) Replay(ctx context.Context, key Key, since time.Time, register Register) (bool, error) {
	e := s.find(key)
	if e == nil {
		return false, nil
	}
	select {
	case e.replaying <- struct{}{}:
	case <-ctx.Done():
		return false, fmt.Errorf("waiting for a registration to be repeated: %w", ctx.Err())
	}
	defer func() { <-e.replaying }()
	if e.registered.After(since) {
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
		s.replays.WithLabelValues("failed").Inc()
		return false, fmt.Errorf("registering a peer again: %w", err)
	case !e.facts.compatible(facts):
		s.replays.WithLabelValues("changed").Inc()
		s.removeIfCurrent(e)
		return false, nil
	}
	s.replays.WithLabelValues("done").Inc()
	e.registered = time.Now()
	return true, nil
}
