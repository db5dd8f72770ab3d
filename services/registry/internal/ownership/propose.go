package ownership

import (
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/placement"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Propose gives what to go by while nothing can be claimed: the record as it
// was last seen, with the change that the loss of its owner or scheduler
// demands made in memory; for a task that nobody knows, epoch 0 and the first
// READY CDN in rendezvous order, which everybody finds alike, and no replicas.
// Its epoch is a proposal: the store may give it to others.
func Propose(cur record.Task, world World, w Resolve) (record.Task, error) {
	known := cur
	if w.Last != nil && (known.Owner == "" || w.Last.Epoch > known.Epoch) {
		known = *w.Last
		known.ID = cur.ID
	}
	t := &turn{world: world, cur: known, next: known, barred: w.Excluded}
	t.next.Replicas = append([]string(nil), known.Replicas...)
	if known.Epoch == 0 {
		return t.unknown(w)
	}
	if w.lostOwner(t) {
		if err := t.replaceOwner(staysIfMember, true); err != nil {
			return record.Task{}, err
		}
	}
	if w.lostScheduler(t) {
		t.next.Scheduler = w.Scheduler
	}
	t.raiseEpoch()
	return t.next, nil
}

func (t *turn) unknown(w Resolve) (record.Task, error) {
	next := record.Task{ID: t.cur.ID, URL: w.URL, Scheduler: w.Scheduler, Status: record.StatusWaiting}
	if next.URL == "" {
		next.URL = t.cur.URL
	}
	if t.cur.Owner != w.LostOwner && t.isReady(t.cur.Owner) && !slices.Contains(w.Excluded, t.cur.Owner) {
		next.Owner = t.cur.Owner
		return next, nil
	}
	t.barred = append([]string{w.LostOwner}, t.barred...)
	t.next = record.Task{ID: t.cur.ID}
	owner, ok := placement.Owner(t.cur.ID, t.candidates(func(Load) int { return 0 }))
	if !ok {
		return next, noCDN("no CDN takes new tasks")
	}
	next.Owner = owner
	return next, nil
}
