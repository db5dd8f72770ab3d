package ownership

import (
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/placement"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// formerOwner is what happens to an owner that is replaced.
type formerOwner int

const (
	keepIfMember formerOwner = iota // it becomes the last replica, unless it is gone
	remove                          // it resigned
)

// replaceOwner makes another CDN the owner. mayDrain also allows a replica that is
// draining.
func (t *transition) replaceOwner(former formerOwner, mayDrain bool) error {
	successor, ok := t.successor(mayDrain)
	if !ok {
		return noCDN("no other CDN can become owner of the task")
	}
	t.setOwner(successor, former)
	return nil
}

// successor returns the next owner: the first replica that is READY, else the CDN that
// placement chooses, else, if mayDrain is set, the first replica that is a member.
// It returns false if there is none.
func (t *transition) successor(mayDrain bool) (string, bool) {
	for _, id := range t.next.Replicas {
		if t.isReady(id) && !slices.Contains(t.excluded, id) {
			return id, true
		}
	}
	if id, ok := placement.Owner(t.next.ID, t.candidates(func(l Load) int { return l.Owned })); ok {
		return id, true
	}
	if !mayDrain {
		return "", false
	}
	for _, id := range t.next.Replicas {
		if t.isMember(cdnKey(id)) && !slices.Contains(t.excluded, id) {
			return id, true
		}
	}
	return "", false
}

// setOwner makes a CDN the owner. The version of the source stays in the record if the
// new owner has a copy or can get the pieces from other copies. Otherwise it is
// removed, because the new owner may find another version.
func (t *transition) setOwner(owner string, former formerOwner) {
	was, promoted := t.next.Owner, slices.Contains(t.next.Replicas, owner)
	t.next.Replicas = slices.DeleteFunc(t.next.Replicas, func(id string) bool { return id == owner })
	t.next.Owner = owner
	t.requirePresent(cdnKey(owner))
	if was != "" {
		switch member, gone := t.isMember(cdnKey(was)), t.isGone(cdnKey(was)); {
		case member && former == keepIfMember:
			t.requirePresent(cdnKey(was))
			t.next.Replicas = append(t.next.Replicas, was)
		case gone && t.restoring, !gone && !member && former == keepIfMember:
			t.next.Replicas = append(t.next.Replicas, was)
		}
		if t.isGone(cdnKey(was)) {
			t.requireAbsent(cdnKey(was))
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

// hasCopies reports whether any replica can be a source of pieces for the owner.
func (t *transition) hasCopies() bool {
	return slices.ContainsFunc(t.next.Replicas, func(id string) bool { return t.restoring || !t.isGone(cdnKey(id)) })
}

// repairReplicas drops the replicas that are gone and places missing ones.
func (t *transition) repairReplicas() {
	if t.restoring {
		return
	}
	t.next.Replicas = slices.DeleteFunc(t.next.Replicas, func(id string) bool {
		gone := t.isGone(cdnKey(id))
		if gone {
			t.requireAbsent(cdnKey(id))
		}
		return gone
	})
	zone := ""
	if owner, ok := t.cluster.Member(cdnKey(t.next.Owner)); ok {
		zone = owner.Zone
	}
	for t.lacksCopies() {
		id, ok := placement.Replica(t.next.ID, zone, t.candidates(func(l Load) int { return l.Owned + l.Replicated }))
		if !ok {
			return
		}
		t.next.Replicas = append(t.next.Replicas, id)
		t.requirePresent(cdnKey(id))
	}
}

// lacksCopies reports whether the task has fewer copies than it should. A copy on a CDN
// that drains does not count. A copy on a CDN that may still send its first
// heartbeat to a young store counts.
func (t *transition) lacksCopies() bool {
	copies := 0
	for _, id := range t.next.Copies() {
		if t.isReady(id) || !t.isMember(cdnKey(id)) && !t.isGone(cdnKey(id)) {
			copies++
		}
	}
	return copies < t.cluster.Copies
}

// candidates returns the READY CDNs. Those that the record names already, and those that
// must not get the task, are excluded: only their loads count.
func (t *transition) candidates(load func(Load) int) []placement.Candidate {
	var all []placement.Candidate
	for _, m := range t.cluster.CDNs() {
		if m.State != record.StateReady {
			continue
		}
		all = append(all, placement.Candidate{
			ID: m.ID, Zone: m.Zone, Capacity: m.Capacity, Load: load(t.cluster.Load(m.ID)),
			Excluded: t.next.Names(m.ID) || slices.Contains(t.excluded, m.ID),
		})
	}
	return all
}
