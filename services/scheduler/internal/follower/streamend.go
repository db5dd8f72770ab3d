package follower

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// handleStreamEnd takes how a link's stream ended. An error is the end of the task.
func (w *taskFollower) handleStreamEnd(ctx context.Context, e streamEnd, now time.Time) error {
	l := e.link
	l.open, l.stillValid = false, e.stillValid && !l.withdrawn
	l.cancel()
	w.received = w.received || e.received
	if e.received && now.Sub(l.opened) > maxBackoff {
		l.backoff = 0 // it was no try in vain
	}
	switch {
	case l.withdrawn:
		l.retryAt, l.attached = time.Time{}, false
		return w.sink.Detach(ctx, l.cdn.ID) // it may have been attached meanwhile
	case ctx.Err() != nil:
		return ctx.Err()
	case rpcerr.From(e.err).Code == codes.Canceled && !e.instanceDown && !e.stillValid && l.owner && !w.isOwnerLink(l):
		return nil // it is opened anew
	case w.isOwnerLink(l):
		return w.handleOwnerEnd(ctx, e, now)
	case !l.owner:
		w.handleReplicaEnd(e, now)
	}
	return nil
}

// handleOwnerEnd decides what the end of the owner's stream means for the task.
func (w *taskFollower) handleOwnerEnd(ctx context.Context, e streamEnd, now time.Time) error {
	l := e.link
	if e.stillValid {
		// It has told everything; its health is watched.
		l.retryAt = now.Add(idleRecheck)
		return nil
	}
	switch reason := rpcerr.ReasonOf(e.err); {
	case isVersionMismatch(e.err):
		return versionMismatchError(e.err)
	case reason == rpcerr.SourceBroken && rpcerr.IsFinal(e.err):
		return sourceFailure(l, e.err)
	case reason == rpcerr.SourceUnreachable || reason == rpcerr.SourceBroken:
		return w.secondOpinion(e, now)
	case reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed:
		w.failed[l.cdn.ID] = true
		w.ownerLost(l, causeDisk, e.err, now)
	case reason == rpcerr.TaskDeleted:
		// The copy is gone that had been whole: whoever still needs it may have it again.
		if need, err := w.sink.Need(ctx); err != nil || !need.Whole || need.Unfinished == 0 {
			return e.err
		}
		w.scheduleRetry(l, now, maxBackoff)
	case isFinal(e.err):
		return e.err
	case e.instanceDown && l.openedSuspect:
		w.ownerLost(l, causeSuspect, e.err, now)
	case e.instanceDown:
		w.ownerLost(l, causeStream, e.err, now)
	default: // the instance is there: the stream broke, or it is not the owner any more
		w.log.Info("the owner's stream ended; trying on", zap.String("cdn_id", l.cdn.ID), zap.Error(e.err))
		w.scheduleRetry(l, now, maxBackoff)
		w.resolveBy(l.retryAt)
	}
	return nil
}

// secondOpinion asks another CDN for what one says of the source, once.
func (w *taskFollower) secondOpinion(e streamEnd, now time.Time) error {
	if w.secondOpinionAsked {
		return sourceFailure(e.link, e.err)
	}
	w.secondOpinionAsked = true
	w.failed[e.link.cdn.ID] = true
	w.ownerLost(e.link, causeSecondOpinion, e.err, now)
	return nil
}

// sourceFailure is what a source's failure means for the task: one that was to be of
// the version that peers have may well be of another one now.
func sourceFailure(l *link, err error) error {
	if l.expected != nil && rpcerr.ReasonOf(err) == rpcerr.SourceBroken {
		return fmt.Errorf("%w: %w", err, swarm.ErrConflict)
	}
	return err
}

func (w *taskFollower) handleReplicaEnd(e streamEnd, now time.Time) {
	l := e.link
	reason := rpcerr.ReasonOf(e.err)
	switch {
	case isVersionMismatch(e.err):
		w.log.Warn("a replica has another version of the task; doing without it",
			zap.String("cdn_id", l.cdn.ID), zap.Error(e.err))
		l.excluded = true
	case reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed:
		w.failed[l.cdn.ID] = true
		l.excluded = true
	case isTransportError(e.err) && !e.stillValid || errors.Is(e.err, swarm.ErrNoCopy):
		w.scheduleRetry(l, now, maxBackoff)
	default: // there is nothing to hear at the moment
		w.scheduleRetry(l, now, idleRecheck)
	}
}

// scheduleRetry says when a link is opened again.
func (w *taskFollower) scheduleRetry(l *link, now time.Time, limit time.Duration) {
	l.backoff = min(max(2*l.backoff, minBackoff), limit)
	l.retryAt = now.Add(l.backoff)
}

// handleResolution takes the registry's answer.
func (w *taskFollower) handleResolution(a resolution, now time.Time) error {
	w.resolving = false
	if a.err != nil {
		return w.handleResolveError(a.err, now)
	}
	unchanged := a.lost.owner != "" && a.claim.Owner.ID == a.lost.owner && a.claim.Epoch == a.lost.epoch
	switch {
	case a.claim.Epoch < w.claim.Epoch: // a registry whose copy lags, or a store that was emptied
		w.scheduleResolve(now)
		return nil
	case unchanged && !a.claim.Unclaimed:
		w.claim = a.claim
		return w.retryOwner(now)
	case unchanged:
		w.clearLossIfBack(a.lost)
	}
	w.resolveBackoff = 0
	w.adoptClaim(a.claim)
	w.applyRecordUpdate(now) // what was told before there was a claim
	if a.claim.Unclaimed {
		w.resolveBy(now.Add(unclaimedPause))
	}
	return nil
}

// clearLossIfBack forgets a loss if the owner is back before anybody could be asked.
func (w *taskFollower) clearLossIfBack(lost ownerLoss) {
	if lost.owner != "" && lost.repairable() && !w.Health.Suspect(lost.owner) {
		w.lostOwner = ownerLoss{}
	}
}

// repairable tells whether the same owner may be tried again.
func (l ownerLoss) repairable() bool { return l.cause != causeDisk && l.cause != causeSecondOpinion }

// retryOwner goes on with an owner that was lost and for which there is no other.
func (w *taskFollower) retryOwner(now time.Time) error {
	lost := w.lostOwner
	w.lostOwner = ownerLoss{}
	if l := w.links[lost.owner]; l != nil {
		if !lost.repairable() {
			return sourceFailure(l, lost.err)
		}
		w.scheduleRetry(l, now, maxBackoff)
	}
	return nil
}

// handleResolveError takes the registry's refusal.
func (w *taskFollower) handleResolveError(err error, now time.Time) error {
	known := rpcerr.From(err)
	switch {
	case known.Reason == rpcerr.NotOwner || known.Code == codes.InvalidArgument:
		return err
	case known.Reason == rpcerr.NoCDN && w.lostOwner.owner != "":
		w.log.Warn("no other CDN takes the task", zap.String("cdn_id", w.lostOwner.owner), zap.Error(err))
		if err := w.retryOwner(now); err != nil {
			return err
		}
	default:
		w.log.Warn("cannot find out who has the task; trying on", zap.Error(err))
		w.clearLossIfBack(w.lostOwner)
	}
	w.scheduleResolve(now)
	return nil
}

// scheduleResolve asks the registry again after a pause.
func (w *taskFollower) scheduleResolve(now time.Time) {
	w.resolveBackoff = min(max(2*w.resolveBackoff, minBackoff), maxBackoff)
	w.resolveBy(now.Add(w.resolveBackoff))
}
