package dfget

import (
	"context"
	"time"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
	"github.com/supernode-ha/supernode/services/gateway/internal/request"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
)

// keyOf returns the key of the registration of a peer.
func keyOf(task request.TaskID, peer request.PeerID) registrations.Key {
	return registrations.Key{Task: string(task), Peer: string(peer)}
}

// doRegistered calls the scheduler of a task on behalf of a peer. If the scheduler
// does not have the peer, doRegistered registers the peer there with the stored
// registration and repeats the call once, because dfget would leave its supernode
// after the error. ctx must have the deadline for all of that.
//
// If no registration is stored either, doRegistered calls adopt, which may change
// the call so that the scheduler adopts the peer, and repeats the call if adopt
// returns true. A peer with a stored registration is never adopted: if its task
// has changed, its pieces belong to the old version.
func (s *Service) doRegistered(ctx context.Context, key registrations.Key, plan route.Plan, call route.Call, adopt func() bool) error {
	s.registrations.Touch(key)
	start := time.Now()
	err := s.router.Do(ctx, key.Task, plan, call)
	if err == nil || !errmap.PeerUnknown(err) {
		return err
	}
	stored := s.registrations.Has(key)
	again := route.Plan{AttemptTimeout: s.registerAttempt(), RetryFor: plan.RetryFor}
	registered, replayErr := s.registrations.Replay(ctx, key, start,
		func(ctx context.Context, req *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
			out, err := s.register(ctx, req, again)
			return factsOf(out), err
		})
	if replayErr != nil {
		return replayErr
	}
	if adopted := !stored && adopt(); !registered && !adopted {
		return err
	}
	return s.router.Do(ctx, key.Task, plan, call)
}

// register registers a peer at the scheduler of its task.
func (s *Service) register(ctx context.Context, req *schedulerv1.RegisterPeerRequest, plan route.Plan) (*schedulerv1.RegisterPeerResponse, error) {
	var out *schedulerv1.RegisterPeerResponse
	err := s.router.Do(ctx, req.GetTaskId(), plan, withClient(func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		var err error
		out, err = c.RegisterPeer(ctx, req)
		return err
	}))
	return out, err
}

// registerAttempt returns the timeout of one attempt to register. It is most of
// the budget, because a CDN needs up to 2.5 s to announce a slow source. The rest
// is for an attempt at another scheduler. An unresponsive scheduler is detected
// before the timeout.
func (s *Service) registerAttempt() time.Duration { return s.cfg.CallBudget * 4 / 5 }

// factsOf returns the facts in the answer to a registration.
func factsOf(out *schedulerv1.RegisterPeerResponse) registrations.Facts {
	return registrations.Facts{Length: out.GetLength(), PieceSize: out.GetPieceSize()}
}
