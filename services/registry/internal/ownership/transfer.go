package ownership

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Repair is a CDN that finds one of its own records wrong.
type Repair struct {
	CDN string
}

func (w Repair) turn(t *turn) (Kind, error) {
	if t.cur.Owner == "" {
		return "", notFound()
	}
	if !t.cur.Names(w.CDN) {
		return "", Stale(t.cur)
	}
	kind := KindReplicas
	if t.isGone(cdnKey(t.cur.Owner)) {
		kind = KindRepair
		if err := t.replaceOwner(staysIfMember, true); err != nil {
			return "", err
		}
	}
	t.mendReplicas()
	return kind, nil
}

// Move makes another CDN the owner, and the one that was a replica.
type Move struct {
	// Epoch is the one in which the caller saw the task, 0 for any.
	Epoch int64
	// To becomes owner; empty for the best there is.
	To string
}

func (w Move) turn(t *turn) (Kind, error) {
	switch {
	case t.cur.Owner == "":
		return "", notFound()
	case w.Epoch != 0 && w.Epoch != t.cur.Epoch:
		return "", Stale(t.cur)
	case w.To == "":
		if err := t.replaceOwner(staysIfMember, false); err != nil {
			return "", err
		}
	case !t.isReady(w.To):
		return "", noCDN(fmt.Sprintf("CDN %s takes no tasks", w.To))
	case w.To == t.cur.Owner:
		return KindMove, nil
	default:
		t.giveTo(w.To, staysIfMember)
	}
	t.mendReplicas()
	return KindMove, nil
}

// Resign is a CDN that cannot keep its copy.
type Resign struct {
	CDN string
}

func (w Resign) turn(t *turn) (Kind, error) {
	if !t.cur.Names(w.CDN) {
		return KindResign, nil
	}
	t.barred = []string{w.CDN}
	if t.cur.Owner == w.CDN {
		if err := t.replaceOwner(leaves, false); err != nil {
			return "", err
		}
	} else {
		t.next.Replicas = slices.DeleteFunc(t.next.Replicas, func(id string) bool { return id == w.CDN })
	}
	t.mendReplicas()
	return KindResign, nil
}

// Announce is a CDN that has a copy which no record names it for, as far as it knows.
type Announce struct {
	CDN  string
	Copy record.Copy
}

func (w Announce) turn(t *turn) (Kind, error) {
	if !t.isMember(cdnKey(w.CDN)) {
		return "", noCDN(fmt.Sprintf("CDN %s is no member of the cluster", w.CDN))
	}
	if !t.cur.Names(w.CDN) && (w.Copy.Source == nil || w.Copy.PieceSize == 0) {
		return KindAnnounce, nil // nobody can tell what it is of
	}
	// Whose its epoch was it does not say; one that the record has had is nobody else's.
	if t.cur.Owner == "" || w.Copy.Epoch > t.cur.Epoch {
		t.memories = append(t.memories, memory{epoch: w.Copy.Epoch})
	}
	switch {
	case t.cur.Names(w.CDN):
		return KindAnnounce, nil
	case t.cur.Owner == "":
		t.next.Owner, t.next.URL = w.CDN, w.Copy.URL
		t.next.Source, t.next.PieceSize = w.Copy.Source, w.Copy.PieceSize
		t.next.Status = record.StatusRunning
		if w.Copy.Whole {
			t.next.Status = record.StatusSuccess
		}
	case w.Copy.Matches(t.cur) && (w.Copy.Whole || t.isReady(w.CDN) && t.missing()):
		t.next.Replicas = append(t.next.Replicas, w.CDN)
	default:
		return KindAnnounce, nil
	}
	t.proveThere(cdnKey(w.CDN))
	return KindAnnounce, nil
}

// Stale says who the owner is instead, so that the caller need not ask.
func Stale(cur record.Task) error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "the record is of epoch %d", cur.Epoch).
		With("owner", cur.Owner).With("epoch", fmt.Sprint(cur.Epoch))
}
