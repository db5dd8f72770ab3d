package seed

import (
	"context"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/scheduler/internal/claim"
)

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
	// rarely is how long it takes at most until a copy is looked at again that
	// has nothing to tell; a change of the record or of its instance's health
	// makes it sooner.
	rarely = 30 * time.Second
	// unclaimedPause is how far apart the registry is asked for a task that
	// nobody has agreed on yet.
	unclaimedPause = time.Second
)

// following is one task's copies being followed. Its fields belong to run.
type following struct {
	*Follower
	id, url string
	source  Source
	sink    Sink
	log     *zap.Logger
	heard   *claim.Subscription

	claim     claim.Claim
	links     map[string]*link // by instance
	failed    map[string]bool  // CDNs that tried this task and cannot have it
	told      bool             // a copy has told anything
	second    bool             // another's opinion of the source was asked for
	doubted   bool             // clients cannot fetch from the owner
	lost      loss
	asking    bool
	resolveAt time.Time // zero when there is nothing to ask
	pause     time.Duration

	ends    chan ending
	answers chan answer
	work    sync.WaitGroup
}

// loss is an owner that is lost, until the registry has named another.
type loss struct {
	owner string
	epoch int64
	cause string
	err   error
}

type answer struct {
	lost  loss // what was asked with
	claim claim.Claim
	err   error
}

// close ends all links; their context has ended.
func (w *following) close() {
	w.heard.Close()
	w.work.Wait()
	for _, l := range w.links {
		l.release()
	}
}

func (w *following) run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	w.resolveAt = time.Now()
	for {
		changed := w.Health.Changed()
		if err := w.settle(ctx, time.Now()); err != nil {
			return err
		}
		timer.Reset(w.idle(time.Now()))
		var err error
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-w.ends:
			err = w.ended(ctx, e, time.Now())
		case a := <-w.answers:
			err = w.answered(a, time.Now())
		case <-w.heard.C:
			w.hear(time.Now())
		case <-w.sink.Doubted():
			w.doubted = true
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

// settle makes what is open what should be.
func (w *following) settle(ctx context.Context, now time.Time) error {
	for _, l := range w.links {
		if err := w.suspect(ctx, l, now); err != nil {
			return err
		}
	}
	if !w.asking && !w.resolveAt.IsZero() && !now.Before(w.resolveAt) {
		w.resolve(ctx)
	}
	if !w.claim.Known() {
		return nil
	}
	if err := w.tend(ctx, w.claim.Owner, true, now); err != nil {
		return err
	}
	for _, m := range w.claim.Replicas {
		if err := w.tend(ctx, m, false, now); err != nil {
			return err
		}
	}
	return w.prune(ctx)
}

// suspect withdraws the copy of an instance that does not answer any more.
func (w *following) suspect(ctx context.Context, l *link, now time.Time) error {
	if !w.Health.Suspect(l.cdn.ID) {
		l.doubtful = false
		return nil
	}
	if l.doubtful || !l.open && !l.kept {
		return nil // it is being tried, or has ended
	}
	if l.open {
		l.cancel()
	}
	l.cut, l.kept = true, false
	if !l.open {
		l.attached, l.retryAt = false, time.Time{}
	}
	if w.owns(l) {
		w.lose(l, causeSuspect, nil, now)
	}
	return w.sink.Detach(ctx, l.cdn.ID)
}

// owns tells whether a link was opened at the owner of the present epoch.
func (w *following) owns(l *link) bool {
	return l.owner && l.cdn.ID == w.claim.Owner.ID && l.epoch == w.claim.Epoch
}

// lose notes that the owner is lost and has the registry asked for another.
func (w *following) lose(l *link, cause string, err error, now time.Time) {
	if w.lost.owner == l.cdn.ID && w.lost.epoch == l.epoch {
		return
	}
	w.lost = loss{owner: l.cdn.ID, epoch: l.epoch, cause: cause, err: err}
	w.Stats.TakeOver(cause)
	w.log.Warn("the task's owner is lost; asking for another",
		zap.String("cdn_id", l.cdn.ID), zap.String("cause", cause), zap.Error(err))
	w.resolveBy(now)
}

// resolveBy has the registry asked at a time, or before.
func (w *following) resolveBy(at time.Time) {
	if w.resolveAt.IsZero() || at.Before(w.resolveAt) {
		w.resolveAt = at
	}
}

// resolve asks the registry who has the task.
func (w *following) resolve(ctx context.Context) {
	lost := claim.Lost{Owner: w.lost.owner, Excluded: w.Health.Suspects()}
	for id := range w.failed {
		lost.Excluded = append(lost.Excluded, id)
	}
	slices.Sort(lost.Excluded)
	lost.Excluded = slices.Compact(lost.Excluded)
	last, asked := w.claim, w.lost
	w.asking, w.resolveAt = true, time.Time{}
	w.work.Go(func() {
		var c claim.Claim
		err := w.yield(ctx, last, asked)
		if err == nil {
			c, err = w.Claims.Resolve(ctx, w.id, w.url, last, lost)
		}
		select {
		case w.answers <- answer{asked, c, err}:
		case <-ctx.Done():
		}
	})
}

// yield gives the task away if that is its only chance.
func (w *following) yield(ctx context.Context, last claim.Claim, lost loss) error {
	if w.Yield == nil || last.Known() && lost.owner == "" {
		return nil
	}
	if need, err := w.sink.Need(ctx); err != nil || need.Whole && need.Unfinished == 0 {
		return nil //nolint:nilerr // a task that has ended is not asked for any more
	}
	return w.Yield(ctx, w.id, last.Known())
}

// hear takes news of the record.
func (w *following) hear(now time.Time) {
	next, ask := w.heard.Take(w.claim)
	switch {
	case ask:
		w.resolveBy(now)
	case next.Known() && w.claim.Known():
		w.adopt(next)
	}
}

// adopt takes a claim that is not older than the one there is.
func (w *following) adopt(next claim.Claim) {
	changed := !next.Same(w.claim)
	w.claim = next
	if w.lost.owner != next.Owner.ID || w.lost.epoch != next.Epoch {
		w.lost = loss{}
	}
	for _, l := range w.links {
		if changed && !l.kept {
			l.retryAt, l.banned = time.Time{}, false
		}
	}
}
