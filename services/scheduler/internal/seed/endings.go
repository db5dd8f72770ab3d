package seed

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

// ended takes how a link's stream ended. An error is the end of the task.
func (w *following) ended(ctx context.Context, e ending, now time.Time) error {
	l := e.link
	l.open, l.kept = false, e.kept && !l.cut
	l.cancel()
	w.told = w.told || e.told
	if e.told && now.Sub(l.opened) > lastPause {
		l.pause = 0 // it was no try in vain
	}
	switch {
	case l.cut:
		l.retryAt, l.attached = time.Time{}, false
		return w.sink.Detach(ctx, l.cdn.ID) // it may have been attached meanwhile
	case ctx.Err() != nil:
		return ctx.Err()
	case rpcerr.From(e.err).Code == codes.Canceled && !e.dead && !e.kept && l.owner && !w.owns(l):
		return nil // it is opened anew
	case w.owns(l):
		return w.ownerEnded(ctx, e, now)
	case !l.owner:
		w.replicaEnded(e, now)
	}
	return nil
}

// ownerEnded decides what the end of the owner's stream means for the task.
func (w *following) ownerEnded(ctx context.Context, e ending, now time.Time) error {
	l := e.link
	if e.kept {
		// It has told everything; its health is watched.
		l.retryAt = now.Add(rarely)
		return nil
	}
	switch reason := rpcerr.ReasonOf(e.err); {
	case contradicts(e.err):
		return contradiction(e.err)
	case reason == rpcerr.SourceBroken && rpcerr.IsFinal(e.err):
		return verdict(l, e.err)
	case reason == rpcerr.SourceUnreachable || reason == rpcerr.SourceBroken:
		return w.secondOpinion(e, now)
	case reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed:
		w.failed[l.cdn.ID] = true
		w.lose(l, causeDisk, e.err, now)
	case reason == rpcerr.TaskDeleted:
		// The copy is gone that had been whole: whoever still needs it may have it again.
		if need, err := w.sink.Need(ctx); err != nil || !need.Whole || need.Unfinished == 0 {
			return e.err
		}
		w.retry(l, now, lastPause)
	case final(e.err):
		return e.err
	case e.dead && l.doubtful:
		w.lose(l, causeSuspect, e.err, now)
	case e.dead:
		w.lose(l, causeStream, e.err, now)
	default: // the instance is there: the stream broke, or it is not the owner any more
		w.log.Info("the owner's stream ended; trying on", zap.String("cdn_id", l.cdn.ID), zap.Error(e.err))
		w.retry(l, now, lastPause)
		w.resolveBy(l.retryAt)
	}
	return nil
}

// secondOpinion asks another CDN for what one says of the source, once.
func (w *following) secondOpinion(e ending, now time.Time) error {
	if w.second {
		return verdict(e.link, e.err)
	}
	w.second = true
	w.failed[e.link.cdn.ID] = true
	w.lose(e.link, causeSecondOpinion, e.err, now)
	return nil
}

// verdict is what a source's failure means for the task: one that was to be of
// the version that peers have may well be of another one now.
func verdict(l *link, err error) error {
	if l.expected != nil && rpcerr.ReasonOf(err) == rpcerr.SourceBroken {
		return fmt.Errorf("%w: %w", err, swarm.ErrConflict)
	}
	return err
}

func (w *following) replicaEnded(e ending, now time.Time) {
	l := e.link
	reason := rpcerr.ReasonOf(e.err)
	switch {
	case contradicts(e.err):
		w.log.Warn("a replica has another version of the task; doing without it",
			zap.String("cdn_id", l.cdn.ID), zap.Error(e.err))
		l.banned = true
	case reason == rpcerr.DiskFull || reason == rpcerr.DiskFailed:
		w.failed[l.cdn.ID] = true
		l.banned = true
	case broken(e.err) && !e.kept || errors.Is(e.err, swarm.ErrNoCopy):
		w.retry(l, now, lastPause)
	default: // there is nothing to hear at the moment
		w.retry(l, now, rarely)
	}
}

// retry says when a link is opened again.
func (w *following) retry(l *link, now time.Time, most time.Duration) {
	l.pause = min(max(2*l.pause, firstPause), most)
	l.retryAt = now.Add(l.pause)
}

// answered takes the registry's answer.
func (w *following) answered(a answer, now time.Time) error {
	w.asking = false
	if a.err != nil {
		return w.refused(a.err, now)
	}
	stays := a.lost.owner != "" && a.claim.Owner.ID == a.lost.owner && a.claim.Epoch == a.lost.epoch
	switch {
	case a.claim.Epoch < w.claim.Epoch: // a registry whose copy lags, or a store that was emptied
		w.later(now)
		return nil
	case stays && !a.claim.Unclaimed:
		w.claim = a.claim
		return w.keepOwner(now)
	case stays:
		w.reconsider(a.lost)
	}
	w.pause = 0
	w.adopt(a.claim)
	w.hear(now) // what was told before there was a claim
	if a.claim.Unclaimed {
		w.resolveBy(now.Add(unclaimedPause))
	}
	return nil
}

// reconsider forgets a loss if the owner is back before anybody could be asked.
func (w *following) reconsider(lost loss) {
	if lost.owner != "" && lost.repairable() && !w.Health.Suspect(lost.owner) {
		w.lost = loss{}
	}
}

// repairable tells whether the same owner may be tried again.
func (l loss) repairable() bool { return l.cause != causeDisk && l.cause != causeSecondOpinion }

// keepOwner goes on with an owner that was lost and for which there is no other.
func (w *following) keepOwner(now time.Time) error {
	lost := w.lost
	w.lost = loss{}
	if l := w.links[lost.owner]; l != nil {
		if !lost.repairable() {
			return verdict(l, lost.err)
		}
		w.retry(l, now, lastPause)
	}
	return nil
}

// refused takes the registry's refusal.
func (w *following) refused(err error, now time.Time) error {
	known := rpcerr.From(err)
	switch {
	case known.Reason == rpcerr.NotOwner || known.Code == codes.InvalidArgument:
		return err
	case known.Reason == rpcerr.NoCDN && w.lost.owner != "":
		w.log.Warn("no other CDN takes the task", zap.String("cdn_id", w.lost.owner), zap.Error(err))
		if err := w.keepOwner(now); err != nil {
			return err
		}
	default:
		w.log.Warn("cannot find out who has the task; trying on", zap.Error(err))
		w.reconsider(w.lost)
	}
	w.later(now)
	return nil
}

// later asks the registry again after a pause.
func (w *following) later(now time.Time) {
	w.pause = min(max(2*w.pause, firstPause), lastPause)
	w.resolveBy(now.Add(w.pause))
}
