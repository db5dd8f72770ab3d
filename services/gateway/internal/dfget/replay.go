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

func keyOf(task request.TaskID, peer request.PeerID) registrations.Key {
	return registrations.Key{Task: string(task), Peer: string(peer)}
}

// doRegistered asks the scheduler of a task on behalf of a peer. If it does not know
// the peer it is told of it, as far as this gateway knows it itself, and asked
// once more: dfget would take the error for a reason to leave. ctx has the
// deadline for all of that.
//
// A peer that this gateway does not know either may be adopted, if call is
// asked to have that done; one that it knows and whose task is another by now
// must not: it has pieces of what was before.
func (s *Service) doRegistered(ctx context.Context, key registrations.Key, plan route.Plan, call route.Call, adopt func() bool) error {
	s.registrations.Touch(key)
	start := time.Now()
	err := s.router.Do(ctx, key.Task, plan, call)
	if err == nil || !errmap.PeerUnknown(err) {
		return err
	}
	stranger := !s.registrations.Has(key)
	again := route.Plan{AttemptTimeout: s.registerAttempt(), RetryFor: plan.RetryFor}
	known, replayErr := s.registrations.Replay(ctx, key, start,
		func(ctx context.Context, req *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
			out, err := s.register(ctx, req, again)
			return factsOf(out), err
		})
	if replayErr != nil {
		return replayErr
	}
	if adopted := stranger && adopt(); !known && !adopted {
		return err
	}
	return s.router.Do(ctx, key.Task, plan, call)
}

// register takes a peer into a task.
func (s *Service) register(ctx context.Context, req *schedulerv1.RegisterPeerRequest, plan route.Plan) (*schedulerv1.RegisterPeerResponse, error) {
	var out *schedulerv1.RegisterPeerResponse
	err := s.router.Do(ctx, req.GetTaskId(), plan, withClient(func(ctx context.Context, c schedulerv1.SchedulerServiceClient) error {
		var err error
		out, err = c.RegisterPeer(ctx, req)
		return err
	}))
	return out, err
}

// registerAttempt is most of the budget: a CDN takes 2.5 s to announce a source
// that is slow to answer. It leaves time for another scheduler; one that is
// silent is found out sooner.
func (s *Service) registerAttempt() time.Duration { return s.cfg.CallBudget * 4 / 5 }

func factsOf(out *schedulerv1.RegisterPeerResponse) registrations.Facts {
	return registrations.Facts{Length: out.GetLength(), PieceSize: out.GetPieceSize()}
}
