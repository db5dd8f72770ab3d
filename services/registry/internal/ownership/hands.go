package ownership

import (
	"fmt"
	"slices"

	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Mend is a CDN that finds one of its own records wrong.
type Mend struct {
	CDN string
}

func (w Mend) turn(t *turn) (Kind, error) {
	if t.cur.Owner == "" {
		return "", notFound()
	}
	if !t.cur.Names(w.CDN) {
		return "", Stale(t.cur)
	}
	kind := Replicas
	if t.isGone(cdnKey(t.cur.Owner)) {
		kind = Repair
		if err := t.replaceOwner(staysIfMember, true); err != nil {
			return "", err
		}
	}
	t.mendReplicas()
	return kind, nil
}

// Handover makes another CDN the owner, and the one that was a replica.
type Handover struct {
	// Epoch is the one in which the caller saw the task, 0 for any.
	Epoch int64
	// To becomes owner; empty for the best there is.
	To string
}

func (w Handover) turn(t *turn) (Kind, error) {
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
		return Move, nil
	default:
		t.giveTo(w.To, staysIfMember)
	}
	t.mendReplicas()
	return Move, nil
}

// Quit is a CDN that cannot keep its copy.
type Quit struct {
	CDN string
}

func (w Quit) turn(t *turn) (Kind, error) {
	if !t.cur.Names(w.CDN) {
		return Resign, nil
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
	return Resign, nil
}

// Return is a CDN that has a copy which no record names it for, as far as it knows.
type Return struct {
	CDN  string
	Copy record.Copy
}

func (w Return) turn(t *turn) (Kind, error) {
	if !t.isMember(cdnKey(w.CDN)) {
		return "", noCDN(fmt.Sprintf("CDN %s is no member of the cluster", w.CDN))
	}
	if !t.cur.Names(w.CDN) && (w.Copy.Source == nil || w.Copy.PieceSize == 0) {
		return Announce, nil // nobody can tell what it is of
	}
	// Whose its epoch was it does not say; one that the record has had is nobody else's.
	if t.cur.Owner == "" || w.Copy.Epoch > t.cur.Epoch {
		t.memories = append(t.memories, memory{epoch: w.Copy.Epoch})
	}
	switch {
	case t.cur.Names(w.CDN):
		return Announce, nil
	case t.cur.Owner == "":
		t.next.Owner, t.next.URL = w.CDN, w.Copy.URL
		t.next.Source, t.next.PieceSize = w.Copy.Source, w.Copy.PieceSize
		t.next.Status = record.StatusRunning
		if w.Copy.Whole {
			t.next.Status = record.StatusSuccess
		}
	case w.Copy.Of(t.cur) && (w.Copy.Whole || t.isReady(w.CDN) && t.missing()):
		t.next.Replicas = append(t.next.Replicas, w.CDN)
	default:
		return Announce, nil
	}
	t.proveThere(cdnKey(w.CDN))
	return Announce, nil
}

// Stale says who the owner is instead, so that the caller need not ask.
func Stale(cur record.Task) error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "the record is of epoch %d", cur.Epoch).
		With("owner", cur.Owner).With("epoch", fmt.Sprint(cur.Epoch))
}
