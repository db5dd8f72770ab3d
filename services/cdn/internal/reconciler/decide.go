package reconciler

import (
	"time"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// action is what this instance has to ask the registry for about a task.
type action int

const (
	none action = iota
	// refresh asks for the record, because the one that is known is wrong.
	refresh
	// resign gives up a copy that cannot be kept.
	resign
	// repair replaces who is gone, or places a copy that is missing.
	repair
	// move makes another CDN the owner.
	move
)

// String is the name in metrics and logs.
func (a action) String() string {
	return [...]string{"none", "refresh", "resign", "repair", "move"}[a]
}

// decide is what is to be done about a task, and from when on.
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
	return none, now // another one sees to it
}

// decideAsFirst is decide for the first member that the record names.
func (s *state) decideAsFirst(e *entry, now time.Time) (action, time.Time) {
	if e.owner == s.r.id && s.draining() && s.otherCDNAvailable() {
		return s.decideMove(e), now
	}
	if e.owner != s.r.id {
		// It is no member, because this instance is the first that is.
		gone := s.members.departureOf(e.owner, now)
		if gone.seen {
			return repair, now
		}
		return repair, gone.at.Add(s.r.options.ReplaceDelay)
	}
	return s.decideReplicas(e, now)
}

// maxRepairs is how often a copy is asked for before a task is given to
// somebody who has none.
const maxRepairs = 4

// decideMove sees to it that somebody has a copy of what is whole here before the
// task is given away: a new owner fetches nothing before it is asked for the
// task, and this instance may be gone by then.
func (s *state) decideMove(e *entry) action {
	switch {
	case s.inventory == nil:
		return none // until it is known what is here
	case s.needsCopyBeforeMove(e) && s.successor(e) == "" && s.jobOf(e.id).attempts < maxRepairs:
		return repair
	}
	return move
}

// needsCopyBeforeMove says that the task is to be whole elsewhere before it is given away.
func (s *state) needsCopyBeforeMove(e *entry) bool { return !s.moveAtOnce && s.inventory[e.id].Whole }

// successor is the first replica that takes tasks.
func (s *state) successor(e *entry) string {
	for _, cdn := range e.replicas {
		if s.members.accepts(cdn) {
			return cdn
		}
	}
	return ""
}

// decideReplicas asks for repair when there are fewer copies than there should
// be and somebody could make one. A replica that is gone counts until it is
// clear that it does not come back at once.
func (s *state) decideReplicas(e *entry, now time.Time) (action, time.Time) {
	var have, spare int // copies at members that take tasks, and those that may come back
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

// draining says that this instance gives away what it owns.
func (s *state) draining() bool { return s.handingOver || s.members.byID[s.r.id].Draining }

// otherCDNAvailable says that there is another one that could own something.
func (s *state) otherCDNAvailable() bool {
	if s.members.accepts(s.r.id) {
		return s.members.ready > 1
	}
	return s.members.ready > 0
}

// lacksCopies says that a task has fewer copies than it should have: whoever joins
// may be given one.
func (s *state) lacksCopies(e *entry) bool {
	have := 0
	for _, cdn := range e.copies() {
		if s.members.accepts(cdn) {
			have++
		}
	}
	return have < s.wantedCopies
}
