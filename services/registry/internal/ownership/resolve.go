package ownership

import (
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Resolve is the request of a scheduler for a task that it wants to answer for.
type Resolve struct {
	// Scheduler is the member that sends the request.
	Scheduler string
	// URL is used if a record has to be created.
	URL string
	// Last is the last record that the scheduler has received, or nil.
	Last *record.Task
	// LostOwner and LostScheduler are the owner and the scheduler in Last if they do not
	// answer. They are replaced only if the record still has the epoch of Last.
	LostOwner, LostScheduler string
	// Excluded are CDNs that must not become owner.
	Excluded []string
}

func (r Resolve) apply(t *transition) (Kind, error) {
	if err := r.check(t); err != nil {
		return "", err
	}
	t.excluded = r.Excluded
	r.restore(t)
	if r.lostOwner(t) {
		if err := t.replaceOwner(keepIfMember, true); err != nil {
			return "", err
		}
		t.repairReplicas()
	} else if t.cur.Owner == "" {
		// A record that is restored to a young store may name an owner that has not sent a
		// heartbeat to it yet.
		if owner := cdnKey(t.next.Owner); t.isMember(owner) {
			t.requirePresent(owner)
		}
		t.repairReplicas()
	}
	if r.lostScheduler(t) {
		if lost := schedulerKey(t.next.Scheduler); lost.ID != "" && t.isGone(lost) {
			t.requireAbsent(lost)
		}
		t.next.Scheduler = r.Scheduler
	}
	if t.next.URL == "" {
		t.next.URL = r.URL
	}
	return r.kind(t), r.admit(t)
}

func (r Resolve) kind(t *transition) Kind {
	switch {
	case t.restoring:
		return KindRestored
	case t.cur.Owner == "":
		return KindClaim
	case t.next.Owner != t.cur.Owner:
		return KindOwner
	case t.next.Scheduler != t.cur.Scheduler:
		return KindScheduler
	}
	return KindRestored
}

// check returns an error if a member is reported as lost without an epoch: the report
// could be older than the current record.
func (r Resolve) check(t *transition) error {
	if r.Last != nil {
		return nil
	}
	if r.LostOwner != "" && t.isMember(cdnKey(r.LostOwner)) || r.LostScheduler != "" && t.isMember(schedulerKey(r.LostScheduler)) {
		return rpcerr.Invalid("a member is reported as lost without the last record, which has the epoch of the report")
	}
	return nil
}

// restore writes to the next record what the store has lost of Last, and adds the epoch
// of Last to the used epochs.
func (r Resolve) restore(t *transition) {
	if r.Last == nil {
		return
	}
	last := *r.Last
	t.usedEpochs = append(t.usedEpochs, usedEpoch{epoch: last.Epoch, record: &last})
	switch {
	case t.cur.Owner == "" && last.Epoch > 0:
		t.restoring = true
		revision := t.cur.Revision
		t.next = last
		t.next.ID, t.next.Revision = t.cur.ID, revision
		t.next.Replicas = append([]string(nil), last.Replicas...)
	case t.cur.Owner == "" && t.isReady(last.Owner):
		// The download has started at this owner while the store was unavailable.
		t.next.Owner, t.next.Status = last.Owner, record.StatusWaiting
	case r.lastIsNewer(t):
		// The owner in Last was proposed while the store was unavailable, or the store was
		// restored from a backup that is older than Last. The owner in Last keeps the task.
		t.setOwner(last.Owner, keepIfMember)
		if last.PieceSize > 0 {
			t.next.Source, t.next.PieceSize, t.next.Status = last.Source, last.PieceSize, last.Status
		}
	case t.cur.Owner == last.Owner && t.cur.Epoch < last.Epoch && t.next.PieceSize == 0 && last.PieceSize > 0:
		t.next.Source, t.next.PieceSize, t.next.Status = last.Source, last.PieceSize, last.Status
	}
}

// lastIsNewer reports whether the owner in Last became owner after the one in the
// record, and can continue: it is READY, neither lost nor excluded, and Last has the
// version of the source in the record, if there is one.
func (r Resolve) lastIsNewer(t *transition) bool {
	last := r.Last
	return t.cur.Owner != "" && last.Epoch > t.cur.Epoch && last.Owner != t.cur.Owner &&
		last.Owner != r.LostOwner && t.isReady(last.Owner) && !slices.Contains(r.Excluded, last.Owner) &&
		(t.cur.PieceSize == 0 || t.cur.PieceSize == last.PieceSize && record.SameSource(t.cur.Source, last.Source))
}

// lostOwner reports whether there is no owner, or the owner is gone, or the caller has
// reported it as lost in the current epoch.
func (r Resolve) lostOwner(t *transition) bool {
	owner := t.next.Owner
	return owner == "" || t.isGone(cdnKey(owner)) ||
		owner == r.LostOwner && r.Last != nil && r.Last.Epoch == t.next.Epoch
}

// lostScheduler is lostOwner for the scheduler. A scheduler that sends the request for its
// own task keeps it, even if the store does not have it as a member.
func (r Resolve) lostScheduler(t *transition) bool {
	scheduler := t.next.Scheduler
	if scheduler == r.Scheduler {
		return false
	}
	return scheduler == "" || t.isGone(schedulerKey(scheduler)) ||
		scheduler == r.LostScheduler && r.Last != nil && r.Last.Epoch == t.next.Epoch
}

// admit returns an error for a change that must not be written: a record without URL, or
// a change for a scheduler that is not a member. The next caller would take the
// task away from such a scheduler.
func (r Resolve) admit(t *transition) error {
	t.raiseEpoch()
	if t.next.Equal(t.cur) {
		return nil
	}
	if t.next.URL == "" {
		return rpcerr.Invalid("the task has no record, and the request has no url to create one")
	}
	if !t.isMember(schedulerKey(r.Scheduler)) {
		return rpcerr.New(codes.FailedPrecondition, rpcerr.NoScheduler, "scheduler %s is not a member of the cluster", r.Scheduler)
	}
	t.requirePresent(schedulerKey(r.Scheduler))
	return nil
}
