package follower

import (
	"context"
	"maps"
	"slices"
	"time"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

// suspectReopenInterval is how far apart an owner is asked again because clients cannot fetch
// from it: it may have come back without what it had, or it may be the clients.
const suspectReopenInterval = 10 * time.Second

// ownerHeadStart is how long the owner of a file that is not being fetched has to
// say what the source says of it now, before replicas are listened to: what
// they have may be of an older version.
const ownerHeadStart = 1500 * time.Millisecond

// ensureStream opens the stream of a copy that should have one.
func (w *taskFollower) ensureStream(ctx context.Context, m cluster.Member, owner bool, now time.Time) error {
	l := w.links[m.ID]
	if l == nil {
		if stop := w.checkNeeded(ctx, owner); stop != nil {
			return stop
		}
		l = &link{cdn: m, release: w.Health.Watch(m.ID, m.Endpoint)}
		w.links[m.ID] = l
	}
	if l.cdn.Endpoint != m.Endpoint && !l.open {
		l.release()
		l.cdn, l.release = m, w.Health.Watch(m.ID, m.Endpoint)
	}
	if !owner && now.Before(w.replicaStart()) {
		return nil
	}
	reopen := owner && !w.isOwnerLink(l) || !owner && l.owner || w.ownerSuspected && owner && now.Sub(l.opened) >= suspectReopenInterval
	switch {
	case owner && w.lostOwner.owner == m.ID && w.lostOwner.epoch == w.claim.Epoch:
		return nil // until the registry has said who is next
	case l.open && reopen:
		l.cancel() // the next one is opened when it has ended
		return nil
	case l.open, l.stillValid && !reopen && now.Before(l.retryAt), l.excluded && !owner:
		return nil
	case now.Before(l.retryAt) && !reopen:
		return nil
	}
	suspect := w.Health.Suspect(m.ID)
	if suspect && !owner {
		return nil
	}
	return w.startStream(ctx, l, m, owner, suspect, now)
}

// replicaStart is when replicas are listened to at the earliest.
func (w *taskFollower) replicaStart() time.Time {
	owner := w.links[w.claim.Owner.ID]
	if _, _, running := w.claim.Version(); running || w.received || owner == nil || !owner.open || w.lostOwner.owner != "" {
		return time.Time{}
	}
	return owner.opened.Add(ownerHeadStart)
}

// checkNeeded tells whether a CDN that was not known to have a copy would have
// to fetch again what nobody lacks.
func (w *taskFollower) checkNeeded(ctx context.Context, owner bool) error {
	if !owner || len(w.links) == 0 {
		return nil
	}
	need, err := w.sink.Need(ctx)
	if err == nil && need.Whole && need.Unfinished == 0 && need.Copies == 0 {
		err = errNotNeeded
	}
	return err
}

// startStream opens a link's stream.
func (w *taskFollower) startStream(ctx context.Context, l *link, m cluster.Member, owner, suspect bool, now time.Time) error {
	l.cdn, l.owner, l.epoch, l.openedSuspect = m, owner, w.claim.Epoch, suspect
	l.expected, l.copies = nil, nil
	if owner {
		w.ownerSuspected = false
		var err error
		if l.expected, err = w.expected(ctx); err != nil {
			return err
		}
		l.copies = w.otherCopies(m.ID)
	}
	inner, cancel := context.WithCancel(ctx)
	l.open, l.opened, l.cancel, l.withdrawn, l.stillValid = true, now, cancel, false, false
	w.wg.Go(func() {
		e := w.runStream(inner, l, suspect)
		select {
		case w.streamEnds <- e:
		case <-ctx.Done():
		}
	})
	return nil
}

// expected is the version that peers have pieces of: those that are here or,
// as long as nothing was heard of any, those that a scheduler had before.
func (w *taskFollower) expected(ctx context.Context) (*cdnv1.SourceFacts, error) {
	facts, inUse, err := w.sink.Expected(ctx)
	switch {
	case err != nil:
		return nil, err
	case inUse:
		return &cdnv1.SourceFacts{
			Length: facts.Length, PieceSize: facts.PieceSize, Etag: facts.ETag, LastModified: facts.LastModified,
		}, nil
	case w.received:
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

// otherCopies are the CDNs that may have some of the task beside the owner.
func (w *taskFollower) otherCopies(owner string) []string {
	ids := slices.AppendSeq(slices.Clone(w.claim.Others()), maps.Keys(w.links))
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return id == owner })
}

// prune lets go of instances that the record does not name any more, once
// their streams have ended by themselves.
func (w *taskFollower) prune(ctx context.Context) error {
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

// untilNextCheck is how long there is nothing to do unless something happens.
func (w *taskFollower) untilNextCheck(now time.Time) time.Duration {
	next := now.Add(idleRecheck)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	if !w.resolveAt.IsZero() && !w.resolving {
		sooner(w.resolveAt)
	}
	if at := w.replicaStart(); at.After(now) {
		sooner(at)
	}
	for _, l := range w.links {
		switch {
		case !l.open && l.retryAt.After(now):
			sooner(l.retryAt)
		case l.open && w.ownerSuspected && l.owner && l.opened.Add(suspectReopenInterval).After(now):
			sooner(l.opened.Add(suspectReopenInterval))
		}
	}
	return max(next.Sub(now), time.Millisecond)
}
