package seed

import (
	"context"
	"maps"
	"slices"
	"time"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

// doubt is how far apart an owner is asked again because clients cannot fetch
// from it: it may have come back without what it had, or it may be the clients.
const doubt = 10 * time.Second

// headStart is how long the owner of a file that is not being fetched has to
// say what the source says of it now, before replicas are listened to: what
// they have may be of an older version.
const headStart = 1500 * time.Millisecond

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
	if !owner && now.Before(w.replicasAt()) {
		return nil
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

// replicasAt is when replicas are listened to at the earliest.
func (w *following) replicasAt() time.Time {
	owner := w.links[w.claim.Owner.ID]
	if _, _, running := w.claim.Version(); running || w.told || owner == nil || !owner.open || w.lost.owner != "" {
		return time.Time{}
	}
	return owner.opened.Add(headStart)
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
	resumed := w.source.Resumed && size > 0 && source.GetLength() >= 0
	if !running && !resumed {
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
	if at := w.replicasAt(); at.After(now) {
		sooner(at)
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
