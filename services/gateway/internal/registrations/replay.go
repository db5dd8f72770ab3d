package registrations

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
)

// Register sends a registration to a scheduler and returns the facts from its
// answer.
type Register func(context.Context, *schedulerv1.RegisterPeerRequest) (Facts, error)

// Replay sends the stored registration of key through register, on behalf of a
// call that began at since and failed because a scheduler did not have the peer.
// If the peer was registered after since, for example by the replay of a
// concurrent call, Replay sends nothing.
//
// Replay returns true if the peer is registered now, so that the call can be
// repeated. It returns false if no registration is stored for key, or if the
// facts of the task are no longer compatible with those that the client got: the
// client then has to register again by itself.
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
	req.Again = true // the peer may already have pieces
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
