package ownership

import (
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Resolve is a scheduler that wants to answer for a task.
type Resolve struct {
	// Scheduler is the member that asks.
	Scheduler string
	// URL is for a record that has to be made.
	URL string
	// Last is the record that it saw last, nil for none.
	Last *record.Task
	// LostOwner and LostScheduler do not answer it, in the epoch of Last.
	LostOwner, LostScheduler string
	// Excluded must not become owner.
	Excluded []string
}

func (w Resolve) turn(t *turn) (Kind, error) {
	if err := w.check(t); err != nil {
		return "", err
	}
	t.barred = w.Excluded
	w.remember(t)
	if w.lostOwner(t) {
		if err := t.replaceOwner(staysIfMember, true); err != nil {
			return "", err
		}
		t.mendReplicas()
	} else if t.cur.Owner == "" {
		// What is put back into a young store may name one who has not announced
		// himself to it yet.
		if owner := cdnKey(t.next.Owner); t.isMember(owner) {
			t.proveThere(owner)
		}
		t.mendReplicas()
	}
	if w.lostScheduler(t) {
		if lost := schedulerKey(t.next.Scheduler); lost.ID != "" && t.isGone(lost) {
			t.proveGone(lost)
		}
		t.next.Scheduler = w.Scheduler
	}
	if t.next.URL == "" {
		t.next.URL = w.URL
	}
	return w.kind(t), w.admit(t)
}

func (w Resolve) kind(t *turn) Kind {
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

// check refuses what could be an old claim against a member.
func (w Resolve) check(t *turn) error {
	if w.Last != nil {
		return nil
	}
	if w.LostOwner != "" && t.isMember(cdnKey(w.LostOwner)) || w.LostScheduler != "" && t.isMember(schedulerKey(w.LostScheduler)) {
		return rpcerr.Invalid("who is lost but a member is lost in an epoch: the last record is missing")
	}
	return nil
}

// remember puts back what the store lost, and keeps epochs from coming twice.
func (w Resolve) remember(t *turn) {
	if w.Last == nil {
		return
	}
	last := *w.Last
	t.memories = append(t.memories, memory{epoch: last.Epoch, hands: &last})
	switch {
	case t.cur.Owner == "" && last.Epoch > 0:
		t.restoring = true
		revision := t.cur.Revision
		t.next = last
		t.next.ID, t.next.Revision = t.cur.ID, revision
		t.next.Replicas = append([]string(nil), last.Replicas...)
	case t.cur.Owner == "" && t.isReady(last.Owner):
		// It was told to begin while nothing could be claimed.
		t.next.Owner, t.next.Status = last.Owner, record.StatusWaiting
	case w.newer(t):
		// It was proposed while the store was away, or the store went back to
		// what was before: who has the task by now is to keep it.
		t.giveTo(last.Owner, staysIfMember)
		if last.PieceSize > 0 {
			t.next.Source, t.next.PieceSize, t.next.Status = last.Source, last.PieceSize, last.Status
		}
	case t.cur.Owner == last.Owner && t.cur.Epoch < last.Epoch && t.next.PieceSize == 0 && last.PieceSize > 0:
		t.next.Source, t.next.PieceSize, t.next.Status = last.Source, last.PieceSize, last.Status
	}
}

// newer tells whether the owner that the caller remembers came after the
// record's, and can go on: with the version that the record tells of, if any.
func (w Resolve) newer(t *turn) bool {
	last := w.Last
	return t.cur.Owner != "" && last.Epoch > t.cur.Epoch && last.Owner != t.cur.Owner &&
		last.Owner != w.LostOwner && t.isReady(last.Owner) && !slices.Contains(w.Excluded, last.Owner) &&
		(t.cur.PieceSize == 0 || t.cur.PieceSize == last.PieceSize && record.SameSource(t.cur.Source, last.Source))
}

// lostOwner tells whether the owner is no member, or the caller lost it in the
// epoch that the record is still of.
func (w Resolve) lostOwner(t *turn) bool {
	owner := t.next.Owner
	return owner == "" || t.isGone(cdnKey(owner)) ||
		owner == w.LostOwner && w.Last != nil && w.Last.Epoch == t.next.Epoch
}

// lostScheduler is lostOwner for the scheduler. One that asks for its own task
// keeps it, whether its heartbeat has been seen or not.
func (w Resolve) lostScheduler(t *turn) bool {
	scheduler := t.next.Scheduler
	if scheduler == w.Scheduler {
		return false
	}
	return scheduler == "" || t.isGone(schedulerKey(scheduler)) ||
		scheduler == w.LostScheduler && w.Last != nil && w.Last.Epoch == t.next.Epoch
}

// admit refuses a claim that cannot be made: without a source, or for one who
// is no member, from whom whoever asks next would take it again.
func (w Resolve) admit(t *turn) error {
	t.raiseEpoch()
	if t.next.Equal(t.cur) {
		return nil
	}
	if t.next.URL == "" {
		return rpcerr.Invalid("the task has no record, and none can be made without url")
	}
	if !t.isMember(schedulerKey(w.Scheduler)) {
		return rpcerr.New(codes.FailedPrecondition, rpcerr.NoScheduler, "scheduler %s is no member of the cluster", w.Scheduler)
	}
	t.proveThere(schedulerKey(w.Scheduler))
	return nil
}
