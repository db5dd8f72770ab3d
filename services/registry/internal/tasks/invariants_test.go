package tasks_test

import (
	"fmt"
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func cdnKey(id string) record.MemberKey { return record.MemberKey{Role: record.RoleCDN, ID: id} }

// check checks the invariants of one write.
func (s *simStore) check(cur, next record.Task, w etcdstore.Swap, by *op) {
	s.checkEpoch(cur, next, w.Kind)
	s.checkCopies(cur, next, by)
	if by.scheduler != "" {
		s.checkLosses(cur, next, by.req)
	}
	if w.Kind == "facts" && (cur.Owner != by.cdn || cur.Epoch != by.epoch) {
		s.violated("%s: %s of epoch %d writes facts over owner %s, epoch %d", next.ID, by.cdn, by.epoch, cur.Owner, cur.Epoch)
	}
	if by.cdn == "" && !next.SameAssignment(cur) && !s.isMember(record.MemberKey{Role: record.RoleScheduler, ID: by.scheduler}) {
		s.violated("%s: claimed for scheduler %s, which is not a member", next.ID, by.scheduler)
	}
}

// checkEpoch checks that an epoch has one owner and one scheduler, and that the epoch
// grows if they change, and does not change otherwise.
func (s *simStore) checkEpoch(cur, next record.Task, kind string) {
	switch changed := cur.Owner != "" && !next.SameAssignment(cur); {
	case next.Epoch < 1:
		s.violated("%s: epoch %d", next.ID, next.Epoch)
	case next.Epoch < cur.Epoch:
		s.violated("%s: the epoch falls from %d to %d", next.ID, cur.Epoch, next.Epoch)
	case changed && next.Epoch == cur.Epoch:
		s.violated("%s: owner or scheduler change within epoch %d: %s", next.ID, cur.Epoch, kind)
	case !changed && cur.Owner != "" && next.Epoch != cur.Epoch && kind != "restored" && kind != "announce":
		s.violated("%s: the epoch changes, and owner and scheduler do not: %s", next.ID, kind)
	}
	key := fmt.Sprint(next.ID, next.Epoch)
	if had, ok := s.owners[key]; ok && !had.SameAssignment(next) {
		s.violated("%s: epoch %d had owner %s and scheduler %s, now it has %s and %s", next.ID, next.Epoch, had.Owner, had.Scheduler, next.Owner, next.Scheduler)
	}
	s.owners[key] = next
}

// checkCopies checks that a member that has a copy is dropped only if it resigns, and
// that only members are added.
func (s *simStore) checkCopies(cur, next record.Task, by *op) {
	for _, id := range cur.Copies() {
		if !next.Names(id) && s.isMember(cdnKey(id)) && by.resigns != id {
			s.violated("%s: %s is a member, has a copy and was dropped", next.ID, id)
		}
	}
	// A record may be restored to a young store before its members are.
	if restored := by.young && cur.Owner == ""; !restored && !s.isMember(cdnKey(next.Owner)) && next.Owner != cur.Owner {
		s.violated("%s: the new owner %s is not a member", next.ID, next.Owner)
	}
	for _, id := range next.Replicas {
		// A record is restored with all the copies that the caller has received.
		if !cur.Names(id) && cur.Owner != "" && !s.isMember(cdnKey(id)) {
			s.violated("%s: the new replica %s is not a member", next.ID, id)
		}
	}
	copies := slices.Sorted(slices.Values(next.Copies()))
	if len(slices.Compact(copies)) != 1+len(next.Replicas) {
		s.violated("%s: a CDN is named twice: %s, %v", next.ID, next.Owner, next.Replicas)
	}
}

// checkLosses checks that a member loses a task because of a report only in the epoch
// of the report, or to a later owner, and that a record that the store has lost is
// restored with all its copies.
func (s *simStore) checkLosses(cur, next record.Task, req ownership.Resolve) {
	last := req.Last
	if s.isMember(cdnKey(cur.Owner)) && next.Owner != cur.Owner {
		lost := last != nil && req.LostOwner == cur.Owner && last.Epoch == cur.Epoch
		if later := last != nil && last.Owner == next.Owner && last.Epoch > cur.Epoch; !lost && !later {
			s.violated("%s: %s is a member and loses the task in epoch %d to %s: %+v", next.ID, cur.Owner, cur.Epoch, next.Owner, req)
		}
	}
	scheduler := record.MemberKey{Role: record.RoleScheduler, ID: cur.Scheduler}
	if s.isMember(scheduler) && next.Scheduler != cur.Scheduler {
		if last == nil || req.LostScheduler != cur.Scheduler || last.Epoch != cur.Epoch {
			s.violated("%s: %s is a member and loses the task in epoch %d to %s: %+v", next.ID, cur.Scheduler, cur.Epoch, next.Scheduler, req)
		}
	}
	if cur.Owner != "" || last == nil || last.Epoch == 0 {
		return
	}
	for _, id := range last.Copies() {
		if !next.Names(id) {
			s.violated("%s: restored without the copy of %s: %v of %v", next.ID, id, next.Copies(), last.Copies())
		}
	}
}

// checkAnswer checks that an epoch that a caller has received is not answered with
// another owner or scheduler.
func (s *simStore) checkAnswer(last *record.Task, got record.Task) {
	if last == nil {
		return
	}
	if got.Epoch < last.Epoch || got.Epoch == last.Epoch && last.Epoch > 0 && !got.SameAssignment(*last) {
		s.violated("%s: answered epoch %d of %s and %s to a caller that has received epoch %d of %s and %s",
			got.ID, got.Epoch, got.Owner, got.Scheduler, last.Epoch, last.Owner, last.Scheduler)
	}
}
