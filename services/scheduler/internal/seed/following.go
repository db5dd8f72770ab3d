package seed

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
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
	// doubt is how far apart an owner is asked again because clients cannot
	// fetch from it: it may have come back without what it had, or it may be
	// the clients.
	doubt = 10 * time.Second
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
		l.attached = false
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
		c, err := w.Claims.Resolve(ctx, w.id, w.url, last, lost)
		select {
		case w.answers <- answer{asked, c, err}:
		case <-ctx.Done():
		}
	})
}

// tend opens the stream of a copy that should have one.
func (w *following) tend(ctx context.Context, m cluster.Member, owner bool, now time.Time) error {
	l := w.links[m.ID]
	if l == nil {
		if stop := w.pointless(ctx, owner); stop != nil {
			return stop
		}
		l = &link{cdn: m, release: w.Health.Watch(m.ID, m.Endpoint)}
		w.links[m.ID] = l
	}
	if l.cdn.Endpoint != m.Endpoint && !l.open {
		l.release()
		l.cdn, l.release = m, w.Health.Watch(m.ID, m.Endpoint)
	}
	anew := owner && !w.owns(l) || !owner && l.owner || w.doubted && owner && now.Sub(l.opened) >= doubt
	switch {
	case owner && w.lost.owner == m.ID && w.lost.epoch == w.claim.Epoch:
		return nil // until the registry has said who is next
	case l.open && anew:
		l.cancel() // the next one is opened when it has ended
		return nil
	case l.open, l.kept && !anew && now.Before(l.retryAt), l.banned && !owner:
		return nil
	case now.Before(l.retryAt) && !anew:
		return nil
	}
	suspect := w.Health.Suspect(m.ID)
	if suspect && !owner {
		return nil
	}
	return w.listenTo(ctx, l, m, owner, suspect, now)
}

// pointless tells whether a CDN that was not known to have a copy would have
// to fetch again what nobody lacks.
func (w *following) pointless(ctx context.Context, owner bool) error {
	if !owner || len(w.links) == 0 {
		return nil
	}
	need, err := w.sink.Need(ctx)
	if err == nil && need.Whole && need.Unfinished == 0 && need.Copies == 0 {
		err = errUnwanted
	}
	return err
}

// listenTo opens a link's stream.
func (w *following) listenTo(ctx context.Context, l *link, m cluster.Member, owner, suspect bool, now time.Time) error {
	l.cdn, l.owner, l.epoch, l.doubtful = m, owner, w.claim.Epoch, suspect
	l.expected, l.copies = nil, nil
	if owner {
		w.doubted = false
		var err error
		if l.expected, err = w.expected(ctx); err != nil {
			return err
		}
		l.copies = w.others(m.ID)
	}
	inner, cancel := context.WithCancel(ctx)
	l.open, l.opened, l.cancel, l.cut, l.kept = true, now, cancel, false, false
	w.work.Go(func() {
		e := w.listen(inner, l, suspect)
		select {
		case w.ends <- e:
		case <-ctx.Done():
		}
	})
	return nil
}

// expected is the version that peers have pieces of: those that are here or,
// as long as nothing was heard of any, those that a scheduler had before.
func (w *following) expected(ctx context.Context) (*cdnv1.SourceFacts, error) {
	facts, held, err := w.sink.Expected(ctx)
	switch {
	case err != nil:
		return nil, err
	case held:
		return &cdnv1.SourceFacts{
			Length: facts.Length, PieceSize: facts.PieceSize, Etag: facts.ETag, LastModified: facts.LastModified,
		}, nil
	case w.told:
		return nil, nil
	}
	source, size, running := w.claim.Version()
	if !running {
		return nil, nil
	}
	return &cdnv1.SourceFacts{
		Length: source.GetLength(), PieceSize: size, Etag: source.GetEtag(), LastModified: source.GetLastModified(),
	}, nil
}

// others are the CDNs that may have some of the task beside the owner.
func (w *following) others(owner string) []string {
	ids := slices.AppendSeq(slices.Clone(w.claim.Others()), maps.Keys(w.links))
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return id == owner })
}

// prune lets go of instances that the record does not name any more, once
// their streams have ended by themselves.
func (w *following) prune(ctx context.Context) error {
	for id, l := range w.links {
		named := w.claim.Owner.ID == id || slices.ContainsFunc(w.claim.Replicas, func(m cluster.Member) bool { return m.ID == id })
		if named || l.open {
			continue
		}
		l.release()
		delete(w.links, id)
		if !l.attached {
			continue
		}
		if err := w.sink.Detach(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// idle is how long there is nothing to do unless something happens.
func (w *following) idle(now time.Time) time.Duration {
	next := now.Add(rarely)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	if !w.resolveAt.IsZero() && !w.asking {
		sooner(w.resolveAt)
	}
	for _, l := range w.links {
		switch {
		case !l.open && l.retryAt.After(now):
			sooner(l.retryAt)
		case l.open && w.doubted && l.owner && l.opened.Add(doubt).After(now):
			sooner(l.opened.Add(doubt))
		}
	}
	return max(next.Sub(now), time.Millisecond)
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
