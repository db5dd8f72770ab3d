package ownership

import (
	"fmt"
	"slices"
)

// Repair is the request of a CDN that has found a record that names it to be wrong: a
// lost owner and lost replicas are replaced.
type Repair struct {
	CDN string
}

func (r Repair) apply(t *transition) (Kind, error) {
	if t.cur.Owner == "" {
		return "", notFound()
	}
	if !t.cur.Names(r.CDN) {
		return "", Stale(t.cur)
	}
	kind := KindReplicas
	if t.isGone(cdnKey(t.cur.Owner)) {
		kind = KindRepair
		if err := t.replaceOwner(keepIfMember, true); err != nil {
			return "", err
		}
	}
	t.repairReplicas()
	return kind, nil
}

// Move is the request to make another CDN the owner. The former owner becomes a replica.
type Move struct {
	// Epoch is the epoch in which the caller has received the record, or 0 for any.
	Epoch int64
	// To becomes owner. If it is empty, the first READY replica does, or else the CDN that
	// placement chooses.
	To string
}

func (r Move) apply(t *transition) (Kind, error) {
	switch {
	case t.cur.Owner == "":
		return "", notFound()
	case r.Epoch != 0 && r.Epoch != t.cur.Epoch:
		return "", Stale(t.cur)
	case r.To == "":
		if err := t.replaceOwner(keepIfMember, false); err != nil {
			return "", err
		}
	case !t.isReady(r.To):
		return "", noCDN(fmt.Sprintf("cannot move the task to CDN %s: it is not a READY member", r.To))
	case r.To == t.cur.Owner:
		return KindMove, nil
	default:
		t.setOwner(r.To, keepIfMember)
	}
	t.repairReplicas()
	return KindMove, nil
}

// Resign is the request of a CDN that cannot keep its copy.
type Resign struct {
	CDN string
}

func (r Resign) apply(t *transition) (Kind, error) {
	if !t.cur.Names(r.CDN) {
		return KindResign, nil
	}
	t.excluded = []string{r.CDN}
	if t.cur.Owner == r.CDN {
		if err := t.replaceOwner(remove, false); err != nil {
			return "", err
		}
	} else {
		t.next.Replicas = slices.DeleteFunc(t.next.Replicas, func(id string) bool { return id == r.CDN })
	}
	t.repairReplicas()
	return KindResign, nil
}
