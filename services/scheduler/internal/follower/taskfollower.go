package follower

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
)

const (
	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
	// idleRecheck is the maximum time until the stream of a copy without events is
	// opened again. A change of the record or of its instance's health opens it
	// earlier.
	idleRecheck = 30 * time.Second
	// unclaimedPause is the interval at which the registry is asked for a task
	// whose claim the store has not confirmed yet.
	unclaimedPause = time.Second
)

// taskFollower follows the copies of one task. The goroutine of run owns its fields.
type taskFollower struct {
	*Follower
	id, url       string
	source        Source
	sink          Sink
	log           *zap.Logger
	recordUpdates *resolver.Subscription

	claim              resolver.Claim
	links              map[string]*link // by instance
	failed             map[string]bool  // CDNs that failed to download or store this task
	received           bool             // a copy has sent an event
	secondOpinionAsked bool             // another CDN was made owner because one could not read the source
	ownerSuspected     bool             // clients could not download from a copy since the owner's stream was opened
	lostOwner          ownerLoss
	resolving          bool
	resolveAt          time.Time // when to ask the registry; zero: not at all
	resolveBackoff     time.Duration

	streamEnds  chan streamEnd
	resolutions chan resolution
	wg          sync.WaitGroup
}

// ownerLoss identifies a lost owner. It is kept until the registry names another one.
type ownerLoss struct {
	owner string
	epoch int64
	cause string
	err   error
}

type resolution struct {
	lost  ownerLoss // the loss with which the registry was asked
	claim resolver.Claim
	err   error
}

// close waits for the goroutines, whose context has ended, and releases all links.
func (w *taskFollower) close() {
	w.recordUpdates.Close()
	w.wg.Wait()
	for _, l := range w.links {
		l.release()
	}
}

func (w *taskFollower) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	w.resolveAt = time.Now()
	for {
		changed := w.Health.Changed()
		if err := w.reconcile(ctx, time.Now()); err != nil {
			return err
		}
		timer.Reset(w.untilNextCheck(time.Now()))
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-w.streamEnds:
			err = w.handleStreamEnd(ctx, e, time.Now())
		case a := <-w.resolutions:
			err = w.handleResolution(a, time.Now())
		case <-w.recordUpdates.C:
			w.applyRecordUpdate(time.Now())
		case <-w.sink.CopySuspected():
			w.ownerSuspected = true
			for id := range w.links {
				w.Health.Poke(id)
			}
		case <-changed:
		case <-timer.C:
		}
		if err != nil {
			return err
		}
	}
}

// reconcile opens the streams that should be open, closes the others, and asks the
// registry if it is due.
func (w *taskFollower) reconcile(ctx context.Context, now time.Time) error {
	for _, l := range w.links {
		if err := w.withdrawSuspect(ctx, l, now); err != nil {
			return err
		}
	}
	if !w.resolving && !w.resolveAt.IsZero() && !now.Before(w.resolveAt) {
		w.resolve(ctx)
	}
	if !w.claim.Known() {
		return nil
	}
	if err := w.ensureStream(ctx, w.claim.Owner, true, now); err != nil {
		return err
	}
	for _, m := range w.claim.Replicas {
		if err := w.ensureStream(ctx, m, false, now); err != nil {
			return err
		}
	}
	return w.prune(ctx)
}

// withdrawSuspect withdraws the copy of an instance that has stopped answering.
func (w *taskFollower) withdrawSuspect(ctx context.Context, l *link, now time.Time) error {
	if !w.Health.Suspect(l.cdn.ID) {
		l.openedSuspect = false
		return nil
	}
	if l.openedSuspect || !l.open && !l.stillValid {
		return nil // the stream was opened to test the instance, or has ended
	}
	if l.open {
		l.cancel()
	}
	l.withdrawn, l.stillValid = true, false
	if !l.open {
		l.attached, l.retryAt = false, time.Time{}
	}
	if w.isOwnerLink(l) {
		w.ownerLost(l, causeSuspect, nil, now)
	}
	return w.sink.Detach(ctx, l.cdn.ID)
}

// isOwnerLink reports whether a link was opened to the owner of the current epoch.
func (w *taskFollower) isOwnerLink(l *link) bool {
	return l.owner && l.cdn.ID == w.claim.Owner.ID && l.epoch == w.claim.Epoch
}

// ownerLost records that the owner is lost and schedules a request for another one.
func (w *taskFollower) ownerLost(l *link, cause string, err error, now time.Time) {
	if w.lostOwner.owner == l.cdn.ID && w.lostOwner.epoch == l.epoch {
		return
	}
	w.lostOwner = ownerLoss{owner: l.cdn.ID, epoch: l.epoch, cause: cause, err: err}
	w.Stats.TakeOver(cause)
	w.log.Warn("the task's owner is lost; asking the registry for another one",
		zap.String("cdn_id", l.cdn.ID), zap.String("cause", cause), zap.Error(err))
	w.resolveBy(now)
}

// resolveBy schedules a request to the registry at the given time or earlier.
func (w *taskFollower) resolveBy(at time.Time) {
	if w.resolveAt.IsZero() || at.Before(w.resolveAt) {
		w.resolveAt = at
	}
}

// resolve asks the registry for the task's owner, in a goroutine.
func (w *taskFollower) resolve(ctx context.Context) {
	lost := resolver.Lost{Owner: w.lostOwner.owner, Excluded: w.Health.Suspects()}
	for id := range w.failed {
		lost.Excluded = append(lost.Excluded, id)
	}
	slices.Sort(lost.Excluded)
	lost.Excluded = slices.Compact(lost.Excluded)
	last, loss := w.claim, w.lostOwner
	w.resolving, w.resolveAt = true, time.Time{}
	w.wg.Go(func() {
		var c resolver.Claim
		err := w.yield(ctx, last, loss)
		if err == nil {
			c, err = w.Resolver.Resolve(ctx, resolver.Task{ID: w.id, URL: w.url, Resumed: w.source.Resumed}, last, lost)
		}
		select {
		case w.resolutions <- resolution{loss, c, err}:
		case <-ctx.Done():
		}
	})
}

// yield calls Follower.Yield if the task needs an owner and has none.
func (w *taskFollower) yield(ctx context.Context, last resolver.Claim, lost ownerLoss) error {
	if w.Yield == nil || last.Known() && lost.owner == "" {
		return nil
	}
	if need, err := w.sink.Need(ctx); err != nil || need.Whole && need.Unfinished == 0 {
		return nil //nolint:nilerr // the task has ended: there is nothing to yield
	}
	return w.Yield(ctx, w.id, last.Known())
}

// applyRecordUpdate applies a change of the record that the registry has sent.
func (w *taskFollower) applyRecordUpdate(now time.Time) {
	next, resolve := w.recordUpdates.Take(w.claim)
	switch {
	case resolve:
		w.resolveBy(now)
	case next.Known() && w.claim.Known():
		w.adoptClaim(next)
	}
}

// adoptClaim replaces the current claim by one that is not older.
func (w *taskFollower) adoptClaim(next resolver.Claim) {
	changed := !next.Same(w.claim)
	w.claim = next
	if w.lostOwner.owner != next.Owner.ID || w.lostOwner.epoch != next.Epoch {
		w.lostOwner = ownerLoss{}
	}
	for _, l := range w.links {
		if changed && !l.stillValid {
			l.retryAt, l.excluded = time.Time{}, false
		}
	}
}
