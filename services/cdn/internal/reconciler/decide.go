package reconciler

import (
	"time"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// action is a call to the registry about a task.
type action int

const (
	none action = iota
	// refresh reads the record, because the known one is outdated.
	refresh
	// resign removes this instance from the record, because it cannot keep a copy.
	resign
	// repair has the registry replace a missing owner or replica, or add a replica.
	repair
	// move has the registry make another CDN the owner.
	move
)

// String returns the name for metrics and logs.
func (a action) String() string {
	return [...]string{"none", "refresh", "resign", "repair", "move"}[a]
}

// decide returns the call that a task needs and the time from which on it may be made:
//
//   - The local copy cannot be kept: resign.
//   - The known record is outdated: refresh.
//   - Another member precedes this instance in the record, or this instance is cut off
//     from the cluster: none.
//   - This instance owns the task and drains: move, or repair if no other CDN has a copy.
//   - The owner is not a member: repair.
//   - Replicas are missing: repair.
func (s *state) decide(id task.ID, now time.Time) (action, time.Time) {
	if j := s.jobs[id]; j != nil {
		switch {
		case j.lost:
			return resign, now
		case j.stale:
			return refresh, now
		}
	}
	e := s.index.entries[id]
	if e == nil || !s.complete || !s.members.isMember(s.r.id) {
		return none, now
	}
	for _, cdn := range e.copies() {
		if cdn == s.r.id {
			return s.decideAsFirst(e, now)
		}
		if s.members.isMember(cdn) {
			break
		}
	}
	return none, now // another member repairs the record
}

// decideAsFirst decides for an instance that is the first member that the record names.
func (s *state) decideAsFirst(e *entry, now time.Time) (action, time.Time) {
	if e.owner == s.r.id && s.draining() && s.otherCDNAvailable() {
		return s.decideMove(e), now
	}
	if e.owner != s.r.id {
		// The owner precedes this instance in the record, so it is not a member.
		gone := s.members.departureOf(e.owner, now)
		if gone.seen {
			return repair, now
		}
		return repair, gone.at.Add(s.r.options.ReplaceDelay)
	}
	return s.decideReplicas(e, now)
}

// maxRepairs limits the repairs that request a copy at another CDN before the task is
// moved without one.
const maxRepairs = 4

// decideMove decides for an owner that drains. If the local copy is whole, another CDN
// must have a replica before the task is moved to it. The reason is that a new owner
// downloads nothing until a scheduler sends a Seed, and this instance may have stopped
// by then.
func (s *state) decideMove(e *entry) action {
	switch {
	case s.inventory == nil:
		return none // the local copies are being listed
	case s.needsCopyBeforeMove(e) && s.successor(e) == "" && s.jobOf(e.id).attempts < maxRepairs:
		return repair
	}
	return move
}

// needsCopyBeforeMove reports whether another CDN must have a whole copy before the task
// is moved.
func (s *state) needsCopyBeforeMove(e *entry) bool { return !s.moveAtOnce && s.inventory[e.id].Whole }

// successor returns the first replica that accepts tasks, or an empty string. MoveTask
// makes it the owner.
func (s *state) successor(e *entry) string {
	for _, cdn := range e.replicas {
		if s.members.accepts(cdn) {
			return cdn
		}
	}
	return ""
}

// decideReplicas decides for an owner. A repair is needed if there are fewer copies than
// wanted and another CDN can make one, or if a replica's CDN has been missing for
// ReplaceDelay. Until then such a replica counts as a copy, because it may return.
func (s *state) decideReplicas(e *entry, now time.Time) (action, time.Time) {
	var have, spare int // copies at members that accept tasks, and at CDNs that may return
	var back time.Time
	for _, cdn := range e.copies() {
		switch {
		case s.members.accepts(cdn):
			have++
		case !s.members.isMember(cdn):
			until := s.members.departureOf(cdn, now).at.Add(s.r.options.ReplaceDelay)
			if !until.After(now) {
				return repair, now
			}
			spare++
			if back.IsZero() || until.Before(back) {
				back = until
			}
		}
	}
	switch {
	case have+spare < s.wantedCopies && s.members.ready > have:
		return repair, now
	case spare > 0:
		return repair, back
	}
	return none, now
}

// draining reports whether this instance moves its tasks to other CDNs.
func (s *state) draining() bool { return s.handingOver || s.members.byID[s.r.id].Draining }

// otherCDNAvailable reports whether another CDN accepts tasks.
func (s *state) otherCDNAvailable() bool {
	if s.members.accepts(s.r.id) {
		return s.members.ready > 1
	}
	return s.members.ready > 0
}

// lacksCopies reports whether a task has fewer copies than wanted at CDNs that accept
// tasks. A CDN that joins can get one.
func (s *state) lacksCopies(e *entry) bool {
	have := 0
	for _, cdn := range e.copies() {
		if s.members.accepts(cdn) {
			have++
		}
	}
	return have < s.wantedCopies
}
