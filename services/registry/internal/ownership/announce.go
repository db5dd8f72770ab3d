package ownership

import (
	"fmt"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Announce is the request of a CDN that has a copy for which it has received no record
// that names it.
type Announce struct {
	CDN  string
	Copy record.Copy
}

func (r Announce) apply(t *transition) (Kind, error) {
	if !t.isMember(cdnKey(r.CDN)) {
		return "", noCDN(fmt.Sprintf("CDN %s is not a member of the cluster", r.CDN))
	}
	if !t.cur.Names(r.CDN) && (r.Copy.Source == nil || r.Copy.PieceSize == 0) {
		return KindAnnounce, nil // the version of the copy is unknown
	}
	// The copy does not tell which owner and scheduler had its epoch. An epoch up to that
	// of the record cannot be assigned twice.
	if t.cur.Owner == "" || r.Copy.Epoch > t.cur.Epoch {
		t.usedEpochs = append(t.usedEpochs, usedEpoch{epoch: r.Copy.Epoch})
	}
	switch {
	case t.cur.Names(r.CDN):
		return KindAnnounce, nil
	case t.cur.Owner == "":
		t.next.Owner, t.next.URL = r.CDN, r.Copy.URL
		t.next.Source, t.next.PieceSize = r.Copy.Source, r.Copy.PieceSize
		t.next.Status = record.StatusRunning
		if r.Copy.Whole {
			t.next.Status = record.StatusSuccess
		}
	case r.Copy.Matches(t.cur) && (r.Copy.Whole || t.isReady(r.CDN) && t.lacksCopies()):
		t.next.Replicas = append(t.next.Replicas, r.CDN)
	default:
		return KindAnnounce, nil
	}
	t.requirePresent(cdnKey(r.CDN))
	return KindAnnounce, nil
}
