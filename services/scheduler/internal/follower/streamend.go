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

// handleStreamEnd processes the end of a link's stream. It returns an error if the
// task has failed.
func (w *taskFollower) handleStreamEnd(ctx context.Context, e streamEnd, now time.Time) error {
	l := e.link
	l.open, l.stillValid = false, e.stillValid && !l.withdrawn
	l.cancel()
	w.received = w.received || e.received
	if e.received && now.Sub(l.opened) > maxBackoff {
		l.backoff = 0 // the stream has worked for a while
	}
	switch {
	case l.withdrawn:
		l.retryAt, l.attached = time.Time{}, false
		return w.sink.Detach(ctx, l.cdn.ID) // it may have been attached in the meantime
	case ctx.Err() != nil:
		return ctx.Err()
	case rpcerr.From(e.err).Code == codes.Canceled && !e.instanceDown && !e.stillValid && l.owner && !w.isOwnerLink(l):
		return nil // it was closed in order to be opened for the new epoch
	case w.isOwnerLink(l):
		return w.handleOwnerEnd(ctx, e, now)
	case !l.owner:
		w.handleReplicaEnd(e, now)
	}
	return nil
}

// handleOwnerEnd processes the end of the owner's stream.
func (w *taskFollower) handleOwnerEnd(ctx context.Context, e streamEnd, now time.Time) error {
	l := e.link
	if e.stillValid {
		// All events were received; the health checks watch the instance.
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
		// The complete copy was deleted: seed it again only if a peer needs it.
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
	default: // the instance is alive: the stream broke, or it is no longer the owner
		w.log.Info("the owner's stream ended; opening it again", zap.String("cdn_id", l.cdn.ID), zap.Error(e.err))
		w.scheduleRetry(l, now, maxBackoff)
		w.resolveBy(l.retryAt)
	}
	return nil
}

// secondOpinion makes another CDN try the source, once per task.
func (w *taskFollower) secondOpinion(e streamEnd, now time.Time) error {
	if w.secondOpinionAsked {
		return sourceFailure(e.link, e.err)
	}
	w.secondOpinionAsked = true
	w.failed[e.link.cdn.ID] = true
	w.ownerLost(e.link, causeSecondOpinion, e.err, now)
	return nil
}

// sourceFailure returns the error for a failure of the source. If the owner was asked
// for the version that peers have, a broken source may have another version now:
// then the error is also an ErrConflict.
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
		w.log.Warn("a replica has another version of the task; ignoring it",
			zap.String("cdn_id", l.cdn.ID), zap.Error(e.err))
		l.excluded = true
	case reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed:
		w.failed[l.cdn.ID] = true
		l.excluded = true
	case isTransportError(e.err) && !e.stillValid || errors.Is(e.err, swarm.ErrNoCopy):
		w.scheduleRetry(l, now, maxBackoff)
	default: // the replica has no events at the moment
		w.scheduleRetry(l, now, idleRecheck)
	}
}

// scheduleRetry schedules the next opening of a link's stream, with back-off.
func (w *taskFollower) scheduleRetry(l *link, now time.Time, limit time.Duration) {
	l.backoff = min(max(2*l.backoff, minBackoff), limit)
	l.retryAt = now.Add(l.backoff)
}

// handleResolution processes the registry's answer.
func (w *taskFollower) handleResolution(a resolution, now time.Time) error {
	w.resolving = false
	if a.err != nil {
		return w.handleResolveError(a.err, now)
	}
	unchanged := a.lost.owner != "" && a.claim.Owner.ID == a.lost.owner && a.claim.Epoch == a.lost.epoch
	switch {
	case a.claim.Epoch < w.claim.Epoch: // the registry's cache is outdated, or the store has lost its data
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
	w.applyRecordUpdate(now) // updates that arrived before there was a claim
	if a.claim.Unclaimed {
		w.resolveBy(now.Add(unclaimedPause))
	}
	return nil
}

// clearLossIfBack clears a loss if the owner answers again and no other owner was named.
func (w *taskFollower) clearLossIfBack(lost ownerLoss) {
	if lost.owner != "" && lost.repairable() && !w.Health.Suspect(lost.owner) {
		w.lostOwner = ownerLoss{}
	}
}

// repairable reports whether the same owner may be tried again.
func (l ownerLoss) repairable() bool { return l.cause != causeDisk && l.cause != causeSecondOpinion }

// retryOwner continues with a lost owner because there is no other one.
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

// handleResolveError processes an error of the registry. It returns an error if the
// task has failed.
func (w *taskFollower) handleResolveError(err error, now time.Time) error {
	known := rpcerr.From(err)
	switch {
	case known.Reason == rpcerr.NotOwner || known.Code == codes.InvalidArgument:
		return err
	case known.Reason == rpcerr.NoCDN && w.lostOwner.owner != "":
		w.log.Warn("no other CDN can own the task; trying its owner again", zap.String("cdn_id", w.lostOwner.owner), zap.Error(err))
		if err := w.retryOwner(now); err != nil {
			return err
		}
	default:
		w.log.Warn("cannot resolve the task's owner; retrying", zap.Error(err))
		w.clearLossIfBack(w.lostOwner)
	}
	w.scheduleResolve(now)
	return nil
}

// scheduleResolve schedules the next request to the registry, with back-off.
func (w *taskFollower) scheduleResolve(now time.Time) {
	w.resolveBackoff = min(max(2*w.resolveBackoff, minBackoff), maxBackoff)
	w.resolveBy(now.Add(w.resolveBackoff))
}
