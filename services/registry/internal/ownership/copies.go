package ownership

import (
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/placement"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// stay says what becomes of an owner that is replaced.
type stay int

const (
	staysIfMember stay = iota // it was lost: a member stands down to replica
	leaves                    // it resigned
)

// replaceOwner gives the task to the successor of its owner.
func (t *turn) replaceOwner(old stay, drainingToo bool) error {
	successor, ok := t.successor(drainingToo)
	if !ok {
		return noCDN("no other CDN takes the task")
	}
	t.giveTo(successor, old)
	return nil
}

// successor is the first replica that is READY, else whom placement names,
// else, if it may be, a replica that is draining: what it has is better than
// nothing.
func (t *turn) successor(drainingToo bool) (string, bool) {
	for _, id := range t.next.Replicas {
		if t.isReady(id) && !slices.Contains(t.barred, id) {
			return id, true
		}
	}
	if id, ok := placement.Owner(t.next.ID, t.candidates(func(l Load) int { return l.Owned })); ok {
		return id, true
	}
	if !drainingToo {
		return "", false
	}
	for _, id := range t.next.Replicas {
		if t.isMember(cdnKey(id)) && !slices.Contains(t.barred, id) {
			return id, true
		}
	}
	return "", false
}

// giveTo makes a CDN the owner. One that has a copy keeps what is known of
// the source, and so does a stranger as long as there are copies to take from;
// one who begins alone may find another version.
func (t *turn) giveTo(owner string, old stay) {
	was, promoted := t.next.Owner, slices.Contains(t.next.Replicas, owner)
	t.next.Replicas = slices.DeleteFunc(t.next.Replicas, func(id string) bool { return id == owner })
	t.next.Owner = owner
	t.proveThere(cdnKey(owner))
	if was != "" {
		switch member, gone := t.isMember(cdnKey(was)), t.isGone(cdnKey(was)); {
		case member && old == staysIfMember:
			t.proveThere(cdnKey(was))
			t.next.Replicas = append(t.next.Replicas, was)
		case gone && t.restoring, !gone && !member && old == staysIfMember:
			t.next.Replicas = append(t.next.Replicas, was)
		}
		if t.isGone(cdnKey(was)) {
			t.proveGone(cdnKey(was))
		}
	}
	switch {
	case promoted && t.next.Status != record.StatusFailed:
	case !promoted && !t.hasCopies():
		t.next.Status, t.next.Source, t.next.PieceSize = record.StatusWaiting, nil, 0
	case t.next.PieceSize == 0 || t.next.Status == record.StatusFailed:
		t.next.Status = record.StatusWaiting
	default:
		t.next.Status = record.StatusRunning
	}
}

// hasCopies tells whether the owner can take from others.
func (t *turn) hasCopies() bool {
	return slices.ContainsFunc(t.next.Replicas, func(id string) bool { return t.restoring || !t.isGone(cdnKey(id)) })
}

// mendReplicas drops replicas that are no members and places missing ones.
func (t *turn) mendReplicas() {
	if t.restoring {
		return
	}
	t.next.Replicas = slices.DeleteFunc(t.next.Replicas, func(id string) bool {
		gone := t.isGone(cdnKey(id))
		if gone {
			t.proveGone(cdnKey(id))
		}
		return gone
	})
	zone := ""
	if owner, ok := t.world.Member(cdnKey(t.next.Owner)); ok {
		zone = owner.Zone
	}
	for t.missing() {
		id, ok := placement.Replica(t.next.ID, zone, t.candidates(func(l Load) int { return l.Owned + l.Replicated }))
		if !ok {
			return
		}
		t.next.Replicas = append(t.next.Replicas, id)
		t.proveThere(cdnKey(id))
	}
}

// missing tells whether there are fewer copies than are to be kept. One on an
// instance that drains is as good as gone; one on an instance that may still
// announce itself is there.
func (t *turn) missing() bool {
	copies := 0
	for _, id := range t.next.Copies() {
		if t.isReady(id) || !t.isMember(cdnKey(id)) && !t.isGone(cdnKey(id)) {
			copies++
		}
	}
	return copies < t.world.Copies
}

// candidates are the READY CDNs. Those that have the task, or must not have
// it, count for the mean only.
func (t *turn) candidates(load func(Load) int) []placement.Candidate {
	var all []placement.Candidate
	for _, m := range t.world.CDNs() {
		if m.State != record.StateReady {
			continue
		}
		all = append(all, placement.Candidate{
			ID: m.ID, Zone: m.Zone, Capacity: m.Capacity, Load: load(t.world.Load(m.ID)),
			Excluded: t.next.Names(m.ID) || slices.Contains(t.barred, m.ID),
		})
	}
	return all
}
