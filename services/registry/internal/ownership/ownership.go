// Package ownership computes the next record of a task from its current record, the
// members of the cluster and a request. Claims, takeovers, repairs, moves,
// resignations and announced copies all go through the function Next.
//
// The package is pure: it does not read, write or wait. Next returns the conditions
// that the transaction that writes the record must check.
//
// Invariants of every step:
//
//   - The epoch grows by one if owner or scheduler change, and otherwise stays. The
//     only exception is an epoch that a caller has received and that the store has
//     lost: the new epoch is not lower than that.
//   - A CDN or scheduler that loses the task because it is not a member must have no
//     key when the record is written. One that gets the task must have a key, except
//     in a record that is restored.
//   - A member that has a copy is dropped only if it resigns.
package ownership

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Load is the number of records that name a CDN as owner, and as a replica.
type Load struct{ Owned, Replicated int }

// Cluster holds what a step depends on besides the record and the request.
type Cluster struct {
	// Member returns a member, or false if there is no such member.
	Member func(record.MemberKey) (record.Member, bool)
	// CDNs returns all CDN members.
	CDNs func() []record.Member
	// Load returns the load of a CDN.
	Load func(cdn string) Load
	// Copies is the number of copies that a task should have, including the owner's.
	Copies int
	// Young is set if the store has just replaced another one, so that members of the
	// former store may not have sent a heartbeat yet. No member is gone then.
	Young bool
}

// Kind is the kind of a step. It is a label of the metric that counts writes.
type Kind string

// The kinds of steps.
const (
	KindClaim     Kind = "claim"     // a record is created
	KindOwner     Kind = "owner"     // a scheduler gets another owner
	KindScheduler Kind = "scheduler" // only the scheduler changes
	KindReplicas  Kind = "replicas"  // a repair that does not change the owner
	KindRepair    Kind = "repair"    // a repair that replaces the owner
	KindRestored  Kind = "restored"  // a record or an epoch that the store has lost is written again
	KindMove      Kind = "move"
	KindResign    Kind = "resign"
	KindAnnounce  Kind = "announce"
)

// Step holds the next record, and the conditions under which it may be written.
type Step struct {
	// Next is the next record. Its Revision is that of the record that it replaces.
	Next record.Task
	// Changed is set if Next differs from the current record.
	Changed bool
	Kind    Kind
	// Absent must not be members when Next is written, Present must be members.
	Absent, Present []record.MemberKey
}

// Request is one of Resolve, Repair, Move, Resign and Announce.
type Request interface {
	// apply changes t.next as requested, and returns the kind of the step.
	apply(t *transition) (Kind, error)
}

// Next returns the step from cur to the next record. If cur.Revision is 0, the task has
// no record.
func Next(cur record.Task, cluster Cluster, req Request) (Step, error) {
	t := &transition{cluster: cluster, cur: cur, next: cur}
	t.next.Replicas = slices.Clone(cur.Replicas)
	kind, err := req.apply(t)
	if err != nil {
		return Step{Next: cur}, err
	}
	t.raiseEpoch()
	return Step{Next: t.next, Changed: !t.next.Equal(cur), Kind: kind, Absent: t.absent, Present: t.present}, nil
}

// usedEpoch is an epoch that a caller has received.
type usedEpoch struct {
	epoch int64
	// record is the record that had the epoch, nil if it is unknown.
	record *record.Task
}

// transition is a step that is being computed.
type transition struct {
	cluster         Cluster
	cur, next       record.Task
	absent, present []record.MemberKey
	usedEpochs      []usedEpoch
	// excluded are CDNs that must not become owner or replica.
	excluded []string
	// restoring is set if next is a record that the store has lost. Its copies may be
	// announced again at any moment, so none is dropped and none is added.
	restoring bool
}

// raiseEpoch sets the epoch of the next record. Two records with a different owner or
// scheduler never get the same epoch, as far as the callers' epochs show.
func (t *transition) raiseEpoch() {
	epoch := t.cur.Epoch
	if !t.next.SameAssignment(t.cur) {
		epoch++
	}
	for _, used := range t.usedEpochs {
		if used.record != nil && used.record.SameAssignment(t.next) {
			epoch = max(epoch, used.epoch)
		} else {
			epoch = max(epoch, used.epoch+1)
		}
	}
	t.next.Epoch = epoch
}

func cdnKey(id string) record.MemberKey { return record.MemberKey{Role: record.RoleCDN, ID: id} }

func schedulerKey(id string) record.MemberKey {
	return record.MemberKey{Role: record.RoleScheduler, ID: id}
}

func (t *transition) isMember(key record.MemberKey) bool {
	_, ok := t.cluster.Member(key)
	return ok
}

// isGone reports whether key is not a member and has had the time to become one.
func (t *transition) isGone(key record.MemberKey) bool { return !t.cluster.Young && !t.isMember(key) }

func (t *transition) isReady(cdn string) bool {
	m, ok := t.cluster.Member(cdnKey(cdn))
	return ok && m.State == record.StateReady
}

// requireAbsent adds the condition that key is not a member.
func (t *transition) requireAbsent(key record.MemberKey) { t.absent = append(t.absent, key) }

// requirePresent adds the condition that key is a member.
func (t *transition) requirePresent(key record.MemberKey) {
	if !slices.Contains(t.present, key) {
		t.present = append(t.present, key)
	}
}

func noCDN(text string) error { return rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "%s", text) }

func notFound() error {
	return rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task has no record")
}

// Stale returns a STALE_EPOCH error that names the current owner, so that the caller
// does not have to read the record.
func Stale(cur record.Task) error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "the request is stale: the record has owner %s and epoch %d", cur.Owner, cur.Epoch).
		With("owner", cur.Owner).With("epoch", fmt.Sprint(cur.Epoch))
}
