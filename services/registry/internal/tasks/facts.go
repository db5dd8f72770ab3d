package tasks

import (
	"context"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Update is what the owner of a task learned.
type Update struct {
	ID        string
	Owner     string
	Epoch     int64
	Source    *record.Source // replaces the record's when set
	PieceSize int32          // replaces the record's when greater than 0
	Status    record.Status  // replaces the record's unless unknown
}

// Update writes what the owner learned, if it still is the owner of that
// epoch. What the record says already is not written again.
func (t *Tasks) Update(ctx context.Context, u Update) (record.Task, error) {
	cur, era, known := t.Cache.Task(u.ID)
	// Only the store itself may refuse a caller or spare it the write: the
	// copy may be older than the caller.
	certain := false
	for round := range maxRounds {
		next, changed, err := u.apply(cur)
		if !certain && (!known || err != nil || !changed) {
			if cur, era, err = t.Store.Task(ctx, u.ID); err != nil {
				return record.Task{}, err
			}
			certain = true
			continue
		}
		if err != nil || !changed {
			return cur, err
		}
		written, won, err := t.Store.Swap(ctx, etcdstore.Swap{Task: next, Era: era, Kind: metrics.WriteTaskFacts})
		if won || err != nil {
			return written, err
		}
		if err := t.pause(ctx, round); err != nil {
			return record.Task{}, err
		}
		if cur, era, err = t.Store.Task(ctx, u.ID); err != nil {
			return record.Task{}, err
		}
		certain = true
	}
	return record.Task{}, tooMany()
}

// apply gives the record after the update, and whether that is another one. A
// fetch that failed takes its version with it: the next may be of another.
func (u Update) apply(cur record.Task) (next record.Task, changed bool, err error) {
	if cur.Revision == 0 {
		return cur, false, notFound()
	}
	if cur.Owner != u.Owner || cur.Epoch != u.Epoch {
		return cur, false, ownership.Stale(cur)
	}
	next = cur
	if u.Source != nil {
		next.Source = u.Source
	}
	if u.PieceSize > 0 {
		next.PieceSize = u.PieceSize
	}
	if u.Status != record.StatusUnknown {
		next.Status = u.Status
	}
	if u.Status == record.StatusFailed {
		next.Source, next.PieceSize = nil, 0
	}
	return next, !next.Equal(cur), nil
}

// Delete removes a record, if it is of that epoch. A task without a record is
// no error.
func (t *Tasks) Delete(ctx context.Context, id string, epoch int64) error {
	for round := range maxRounds {
		cur, era, err := t.Store.Task(ctx, id)
		if err != nil {
			return err
		}
		if cur.Revision == 0 {
			return nil
		}
		if cur.Epoch != epoch {
			return ownership.Stale(cur)
		}
		won, err := t.Store.Delete(ctx, id, era, cur.Revision)
		if won || err != nil {
			return err
		}
		if err := t.pause(ctx, round); err != nil {
			return err
		}
	}
	return tooMany()
}
