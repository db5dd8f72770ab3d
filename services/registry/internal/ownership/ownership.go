// Package ownership is the one function that gives the next record of a task:
// from the record, the members, and what somebody wishes or says is lost.
// Claim, takeover, repair, move, resignation and announced copies all go
// through it. It is pure: nothing here reads, writes or waits; what must hold
// when the record is written comes out as proofs for the transaction.
//
// Invariants of every step:
//   - The epoch grows by one when owner or scheduler change, and with nothing
//     else; only what somebody remembers of a store that lost it raises it further.
//   - Whoever is dropped for being no member is proven gone, whoever gets
//     something is proven there.
//   - A member that has a copy is dropped only when it resigns.
package ownership

import (
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Load is what records give a CDN to do.
type Load struct{ Owned, Replicated int }

// World is what a step depends on beside the record.
type World struct {
	// Member gives a member, false for one that is none.
	Member func(record.MemberKey) (record.Member, bool)
	// CDNs gives all CDN members.
	CDNs func() []record.Member
	// Load gives the load of a CDN.
	Load func(cdn string) Load
	// Copies is how many copies of a task are kept, the owner's included.
	Copies int
	// Young says that the store is so new that not every member can have
	// announced itself: who is none may be alive.
	Young bool
}

// Kind is what a step is.
type Kind string

// The kinds of steps.
const (
	KindClaim     Kind = "claim"     // a record is made
	KindOwner     Kind = "owner"     // the owner was lost
	KindScheduler Kind = "scheduler" // the scheduler was lost
	KindReplicas  Kind = "replicas"  // a repair that leaves the owner
	KindRepair    Kind = "repair"    // a repair with another owner
	KindRestored  Kind = "restored"  // what the store lost is put back
	KindMove      Kind = "move"
	KindResign    Kind = "resign"
	KindAnnounce  Kind = "announce"
)

// Step is a next record, and what must hold for it to be written.
type Step struct {
	// Next is the record that should follow; its Revision is that of the one it follows.
	Next record.Task
	// Changed tells whether it says anything new.
	Changed bool
	Kind    Kind
	// Gone must not be members, There must be.
	Gone, There []record.MemberKey
}

// Request is what somebody wants of a task.
type Request interface {
	// turn makes the next record of t, and says what kind of step that is.
	turn(t *turn) (Kind, error)
}

// Next gives the record that follows cur; Revision 0 is a task without record.
func Next(cur record.Task, world World, req Request) (Step, error) {
	t := &turn{world: world, cur: cur, next: cur}
	t.next.Replicas = slices.Clone(cur.Replicas)
	kind, err := req.turn(t)
	if err != nil {
		return Step{Next: cur}, err
	}
	t.raiseEpoch()
	return Step{Next: t.next, Changed: !t.next.Equal(cur), Kind: kind, Gone: t.gone, There: t.there}, nil
}

// memory is an epoch that somebody remembers, and whose it was, if that is known.
type memory struct {
	epoch int64
	hands *record.Task
}

// turn is a step that is being made.
type turn struct {
	world       World
	cur, next   record.Task
	gone, there []record.MemberKey
	memories    []memory
	// barred must not become owner or get a copy.
	barred []string
	// restoring is a record that the store lost: its copies may come back any
	// moment, so none is dropped and none is placed.
	restoring bool
}

// raiseEpoch gives the record its epoch: no two pairs of hands ever have the
// same one, as far as anybody remembers.
func (t *turn) raiseEpoch() {
	epoch := t.cur.Epoch
	if !t.next.SameAssignment(t.cur) {
		epoch++
	}
	for _, m := range t.memories {
		if m.hands != nil && m.hands.SameAssignment(t.next) {
			epoch = max(epoch, m.epoch)
		} else {
			epoch = max(epoch, m.epoch+1)
		}
	}
	t.next.Epoch = epoch
}

func cdnKey(id string) record.MemberKey { return record.MemberKey{Role: record.RoleCDN, ID: id} }

func schedulerKey(id string) record.MemberKey {
	return record.MemberKey{Role: record.RoleScheduler, ID: id}
}

func (t *turn) isMember(key record.MemberKey) bool {
	_, ok := t.world.Member(key)
	return ok
}

// isGone tells who is no member, and had the time to become one.
func (t *turn) isGone(key record.MemberKey) bool { return !t.world.Young && !t.isMember(key) }

func (t *turn) isReady(cdn string) bool {
	m, ok := t.world.Member(cdnKey(cdn))
	return ok && m.State == record.StateReady
}

func (t *turn) proveGone(key record.MemberKey) { t.gone = append(t.gone, key) }

func (t *turn) proveThere(key record.MemberKey) {
	if !slices.Contains(t.there, key) {
		t.there = append(t.there, key)
	}
}

func noCDN(text string) error { return rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "%s", text) }

func notFound() error {
	return rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task has no record")
}
