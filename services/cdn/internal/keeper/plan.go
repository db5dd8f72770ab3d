package keeper

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

// plan is what is to be done about a task, and from when on.
func (d *desk) plan(id task.ID, now time.Time) (action, time.Time) {
	if j := d.jobs[id]; j != nil {
		switch {
		case j.lost:
			return resign, now
		case j.stale:
			return refresh, now
		}
	}
	e := d.book.entries[id]
	if e == nil || !d.complete || !d.crowd.live(d.k.id) {
		return none, now
	}
	for _, cdn := range e.copies() {
		if cdn == d.k.id {
			return d.planFirst(e, now)
		}
		if d.crowd.live(cdn) {
			break
		}
	}
	return none, now // another one sees to it
}

// planFirst is plan for the first member that the record names.
func (d *desk) planFirst(e *entry, now time.Time) (action, time.Time) {
	if e.owner == d.k.id && d.moving() && d.othersTake() {
		return d.planMove(e), now
	}
	if e.owner != d.k.id {
		// It is no member, because this instance is the first that is.
		gone := d.crowd.missed(e.owner, now)
		if gone.seen {
			return repair, now
		}
		return repair, gone.at.Add(d.k.options.ReplaceDelay)
	}
	return d.planReplicas(e, now)
}

// mostRepairs is how often a copy is asked for before a task is given to
// somebody who has none.
const mostRepairs = 4

// planMove sees to it that somebody has a copy of what is whole here before the
// task is given away: a new owner fetches nothing before it is asked for the
// task, and this instance may be gone by then.
func (d *desk) planMove(e *entry) action {
	switch {
	case d.held == nil:
		return none // until it is known what is here
	case d.cares(e) && d.successor(e) == "" && d.jobFor(e.id).tries < mostRepairs:
		return repair
	}
	return move
}

// cares says that the task is to be whole elsewhere before it is given away.
func (d *desk) cares(e *entry) bool { return !d.hurry && d.held[e.id].Whole }

// successor is the first replica that takes tasks.
func (d *desk) successor(e *entry) string {
	for _, cdn := range e.replicas {
		if d.crowd.takes(cdn) {
			return cdn
		}
	}
	return ""
}

// planReplicas asks for repair when there are fewer copies than there should
// be and somebody could make one. A replica that is gone counts until it is
// clear that it does not come back at once.
func (d *desk) planReplicas(e *entry, now time.Time) (action, time.Time) {
	var have, spare int // copies at members that take tasks, and those that may come back
	var back time.Time
	for _, cdn := range e.copies() {
		switch {
		case d.crowd.takes(cdn):
			have++
		case !d.crowd.live(cdn):
			until := d.crowd.missed(cdn, now).at.Add(d.k.options.ReplaceDelay)
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
	case have+spare < d.want && d.crowd.ready > have:
		return repair, now
	case spare > 0:
		return repair, back
	}
	return none, now
}

// moving says that this instance gives away what it owns.
func (d *desk) moving() bool { return d.leaving || d.crowd.members[d.k.id].Draining }

// othersTake says that there is another one that could own something.
func (d *desk) othersTake() bool {
	if d.crowd.takes(d.k.id) {
		return d.crowd.ready > 1
	}
	return d.crowd.ready > 0
}

// lacks says that a task has fewer copies than it should have: whoever joins
// may be given one.
func (d *desk) lacks(e *entry) bool {
	have := 0
	for _, cdn := range e.copies() {
		if d.crowd.takes(cdn) {
			have++
		}
	}
	return have < d.want
}
