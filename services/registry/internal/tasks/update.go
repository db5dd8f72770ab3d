package tasks

import (
	"context"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Update holds what the owner of a task has found out about its source and the state of
// the download.
type Update struct {
	ID        string
	Owner     string
	Epoch     int64
	Source    *record.Source // replaces that of the record if it is not nil
	PieceSize int32          // replaces that of the record if it is greater than 0
	Status    record.Status  // replaces that of the record unless it is unknown
}

// Update writes what the owner has found out, if it is still the owner in that epoch.
// It writes nothing if the record already contains it.
func (t *Tasks) Update(ctx context.Context, u Update) (record.Task, error) {
	cur, era, known := t.Cache.Task(u.ID)
	// The cache may be older than the caller. So a record from the cache must neither be
	// the reason to refuse the update, nor to skip the write.
	fromStore := false
	for attempt := range maxAttempts {
		next, changed, err := u.apply(cur)
		if !fromStore && (!known || err != nil || !changed) {
			if cur, era, err = t.Store.Task(ctx, u.ID); err != nil {
				return record.Task{}, err
			}
			fromStore = true
			continue
		}
		if err != nil || !changed {
			return cur, err
		}
		written, swapped, err := t.Store.Swap(ctx, etcdstore.Swap{Task: next, Era: era, Kind: metrics.WriteTaskFacts})
		if swapped || err != nil {
			return written, err
		}
		if err := t.pause(ctx, attempt); err != nil {
			return record.Task{}, err
		}
		if cur, era, err = t.Store.Task(ctx, u.ID); err != nil {
			return record.Task{}, err
		}
		fromStore = true
	}
	return record.Task{}, tooManyConflicts()
}

// apply returns the record after the update, and whether it differs. If the download
// has failed, source and piece size are removed, because the next download may get
// another version.
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

// Delete removes a record if it has the given epoch. It returns nil if the task has
// no record.
func (t *Tasks) Delete(ctx context.Context, id string, epoch int64) error {
	for attempt := range maxAttempts {
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
		deleted, err := t.Store.Delete(ctx, id, era, cur.Revision)
		if deleted || err != nil {
			return err
		}
		if err := t.pause(ctx, attempt); err != nil {
			return err
		}
	}
	return tooManyConflicts()
}
