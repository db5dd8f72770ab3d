package ownership

import (
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/placement"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Propose returns the record to use while the store is unavailable, so that nothing can be
// claimed. It is the last known record, cur or the caller's, in which a lost owner or
// scheduler is replaced. The store may later assign its epoch to another owner and
// scheduler.
//
// For a task without a known record, Propose returns a record with epoch 0, without
// replicas, whose owner is the first READY CDN in rendezvous order. All registries
// with the same members choose the same one.
func Propose(cur record.Task, cluster Cluster, r Resolve) (record.Task, error) {
	known := cur
	if r.Last != nil && (known.Owner == "" || r.Last.Epoch > known.Epoch) {
		known = *r.Last
		known.ID = cur.ID
	}
	t := &transition{cluster: cluster, cur: known, next: known, excluded: r.Excluded}
	t.next.Replicas = append([]string(nil), known.Replicas...)
	if known.Epoch == 0 {
		return t.proposeNew(r)
	}
	if r.lostOwner(t) {
		if err := t.replaceOwner(keepIfMember, true); err != nil {
			return record.Task{}, err
		}
	}
	if r.lostScheduler(t) {
		t.next.Scheduler = r.Scheduler
	}
	t.raiseEpoch()
	return t.next, nil
}

// proposeNew returns a record with epoch 0. It keeps the owner of an earlier proposal if
// that is READY and neither lost nor excluded.
func (t *transition) proposeNew(r Resolve) (record.Task, error) {
	next := record.Task{ID: t.cur.ID, URL: r.URL, Scheduler: r.Scheduler, Status: record.StatusWaiting}
	if next.URL == "" {
		next.URL = t.cur.URL
	}
	if t.cur.Owner != r.LostOwner && t.isReady(t.cur.Owner) && !slices.Contains(r.Excluded, t.cur.Owner) {
		next.Owner = t.cur.Owner
		return next, nil
	}
	t.excluded = append([]string{r.LostOwner}, t.excluded...)
	t.next = record.Task{ID: t.cur.ID}
	owner, ok := placement.Owner(t.cur.ID, t.candidates(func(Load) int { return 0 }))
	if !ok {
		return next, noCDN("no CDN can become owner of the task: all are draining, lost or excluded")
	}
	next.Owner = owner
	return next, nil
}
