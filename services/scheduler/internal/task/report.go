package task

import (
	"context"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Written records that a piece is on a peer's disk.
func (t *Task) Written(ctx context.Context, peerID string, num, size int32) error {
	return t.do(ctx, func() error {
		t.markUsed()
		return t.rpcError(t.swarm.Written(peerID, num, size, time.Now()))
	})
}

// Report says that a piece is on a peer's disk.
type Report struct {
	// PeerID is the peer. Num is the number of the piece, Size its wrapped size in bytes.
	PeerID    string
	Num, Size int32
}

// WrittenAll is Written for several pieces. It returns an error for each report, nil
// for one that was applied, and err if none could be.
func (t *Task) WrittenAll(ctx context.Context, reports []Report) (failures []error, err error) {
	return query(ctx, t, func() ([]error, error) {
		t.markUsed()
		now := time.Now()
		failures := make([]error, len(reports))
		for i, r := range reports {
			failures[i] = t.rpcError(t.swarm.Written(r.PeerID, r.Num, r.Size, now))
		}
		return failures, nil
	})
}

// Missing records that peerID could not get a piece from fromID because fromID
// does not have the piece, or, if all is set, does not have the file.
func (t *Task) Missing(ctx context.Context, peerID, fromID string, num int32, all bool) error {
	return t.do(ctx, func() error {
		t.markUsed()
		if err := t.swarm.Seen(peerID, time.Now()); err != nil {
			return t.rpcError(err)
		}
		if all {
			num = -1
		}
		if !swarm.IsCDN(fromID) {
			t.swarm.Lost(peerID, fromID, num)
			return nil
		}
		t.deps.Log.Warn("a client found a piece missing or wrong at a CDN copy; the copy will be checked",
			zap.String("peer_id", peerID), zap.String("copy", fromID), zap.Int32("piece", num))
		notify(t.copySuspected)
		return nil
	})
}

// Down records that a peer has left.
func (t *Task) Down(ctx context.Context, peerID string) error {
	return t.do(ctx, func() error { return t.rpcError(t.swarm.Down(peerID, time.Now())) })
}

// Attach adds or replaces a CDN copy.
func (t *Task) Attach(ctx context.Context, c swarm.Copy) error {
	return t.do(ctx, func() error {
		t.swarm.SetCopy(c)
		return nil
	})
}

// Detach withdraws a CDN copy.
func (t *Task) Detach(ctx context.Context, instance string) error {
	return t.do(ctx, func() error {
		t.swarm.DropCopy(instance)
		return nil
	})
}

// Facts records the facts of the source as a CDN copy reports them.
func (t *Task) Facts(ctx context.Context, instance string, f swarm.Facts) error {
	return t.do(ctx, func() error {
		err := t.swarm.SetFacts(instance, f)
		t.notifyFacts()
		return err
	})
}

// Expected returns the recorded version of the source. inUse is set if a peer may
// have pieces of it.
func (t *Task) Expected(ctx context.Context) (f swarm.Facts, inUse bool, err error) {
	type version struct {
		facts swarm.Facts
		held  bool
	}
	current, err := query(ctx, t, func() (version, error) {
		facts, known := t.swarm.Facts()
		return version{facts, known && t.swarm.VersionInUse()}, nil
	})
	return current.facts, current.held, err
}

// Need returns whether the task still needs CDN copies.
func (t *Task) Need(ctx context.Context) (swarm.Need, error) {
	return query(ctx, t, func() (swarm.Need, error) { return t.swarm.Need(), nil })
}

// Landed records that a CDN copy has a piece.
func (t *Task) Landed(ctx context.Context, instance string, num int32, md5 string, length int32) error {
	return t.do(ctx, func() error { return t.swarm.Landed(instance, num, md5, length) })
}

// Whole records that a CDN copy is complete.
func (t *Task) Whole(ctx context.Context, instance string, r swarm.Result) error {
	return t.do(ctx, func() error { return t.swarm.SetResult(instance, r) })
}

// Fail marks the task as failed. Peers that do not have all pieces get cause.
func (t *Task) Fail(ctx context.Context, cause error) {
	_ = t.do(ctx, func() error {
		t.err, t.failedAt = cause, time.Now()
		t.notifyFacts()
		t.swarm.WakeAll()
		return nil
	})
}

// Copies returns the CDN copies that serve.
func (t *Task) Copies(ctx context.Context) ([]swarm.Copy, error) {
	return query(ctx, t, func() ([]swarm.Copy, error) { return t.swarm.Copies(), nil })
}
