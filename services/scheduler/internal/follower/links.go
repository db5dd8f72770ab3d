package follower

import (
	"context"
	"maps"
	"slices"
	"time"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

// suspectReopenInterval is the minimum interval at which the owner's stream is opened
// again because clients could not download from it. The owner may have restarted
// without its pieces, or the fault may be the clients'.
const suspectReopenInterval = 10 * time.Second

// ownerHeadStart is the time that the owner of a task has to announce the source's
// current version before replicas are followed, unless the record says that the
// task is being downloaded. Replicas may have an older version.
const ownerHeadStart = 1500 * time.Millisecond

// ensureStream opens the stream of a copy, or closes it if it was opened with outdated
// parameters.
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
		return nil // wait until the registry names the next owner
	case l.open && reopen:
		l.cancel() // the new stream is opened when this one has ended
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

// replicaStart returns the time from which replicas may be followed.
func (w *taskFollower) replicaStart() time.Time {
	owner := w.links[w.claim.Owner.ID]
	if _, _, running := w.claim.Version(); running || w.received || owner == nil || !owner.open || w.lostOwner.owner != "" {
		return time.Time{}
	}
	return owner.opened.Add(ownerHeadStart)
}

// checkNeeded returns errNotNeeded if a new owner would have to download a complete task
// of which no copy is left and no peer misses pieces.
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

// startStream opens a link's stream in a goroutine.
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

// expected returns the version that the owner must serve because peers have pieces of
// it: the version recorded here or, before the first event of a copy, the one in
// the registry's record. It returns nil if any version is acceptable.
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

// otherCopies returns the CDNs other than the owner that may have pieces.
func (w *taskFollower) otherCopies(owner string) []string {
	ids := slices.AppendSeq(slices.Clone(w.claim.ReplicaIDs()), maps.Keys(w.links))
	slices.Sort(ids)
	return slices.DeleteFunc(slices.Compact(ids), func(id string) bool { return id == owner })
}

// prune releases the instances that the record no longer names, once their streams
// have ended by themselves.
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

// untilNextCheck returns the time until reconcile has something to do, if no event
// arrives before.
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
