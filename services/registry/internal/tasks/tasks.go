// Package tasks decides what task records say: who owns a task, who answers
// for it, and who may change its record. The store makes every decision hold
// or lose against a newer one; the copy is a hint that may be old, so nothing
// is taken from anybody on its word alone.
package tasks

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/view"
)

const (
	// maxRounds bounds the races one call may lose when its caller set no deadline.
	maxRounds = 32
	// calmRounds are tried at once; after them the caller pauses a little.
	calmRounds = 3
	pauseUnit  = 5 * time.Millisecond
)

// Tasks changes task records. Use New.
type Tasks struct {
	store   *etcdstore.Store
	view    *view.View
	metrics *metrics.Metrics
	log     *zap.Logger
}

// New makes the decisions over a store and its copy.
func New(store *etcdstore.Store, copied *view.View, m *metrics.Metrics, log *zap.Logger) *Tasks {
	return &Tasks{store: store, view: copied, metrics: m, log: log}
}

// Get gives a record as it stands.
func (t *Tasks) Get(ctx context.Context, id string) (record.Task, error) {
	if task, ok := t.view.Task(id); ok && task.Owner != "" {
		return task, nil
	}
	task, err := t.store.Task(ctx, id)
	if err != nil {
		return record.Task{}, err
	}
	if task.Owner == "" {
		return record.Task{}, notFound()
	}
	return task, nil
}

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
	cur, known := t.view.Task(u.ID)
	// Only etcd itself may refuse a caller or spare it the write: the copy may
	// be older than the caller.
	certain := false
	for round := range maxRounds {
		next, changed, err := u.apply(cur)
		if !certain && (!known || err != nil || !changed) {
			if cur, err = t.store.Task(ctx, u.ID); err != nil {
				return record.Task{}, err
			}
			certain = true
			continue
		}
		if err != nil || !changed {
			return cur, err
		}
		out, err := t.store.Swap(ctx, etcdstore.Swap{Task: next, Kind: metrics.WriteTaskUpdate})
		if err != nil {
			return record.Task{}, err
		}
		if out.Won {
			return out.Task, nil
		}
		cur, certain = out.Task, true
		if err := t.pause(ctx, round); err != nil {
			return record.Task{}, err
		}
	}
	return record.Task{}, tooMany()
}

// apply gives the record after the update, and whether that is another one.
func (u Update) apply(cur record.Task) (next record.Task, changed bool, err error) {
	if cur.Revision == 0 {
		return cur, false, notFound()
	}
	if cur.Owner != u.Owner || cur.Epoch != u.Epoch {
		return cur, false, stale(cur)
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
	changed = next.PieceSize != cur.PieceSize || next.Status != cur.Status || !record.SameSource(next.Source, cur.Source)
	return next, changed, nil
}

// Delete removes a record, if it is of that epoch. A task without a record is
// no error.
func (t *Tasks) Delete(ctx context.Context, id string, epoch int64) error {
	cur, known := t.view.Task(id)
	certain := false
	for round := range maxRounds {
		if !certain && (!known || cur.Epoch != epoch) {
			var err error
			if cur, err = t.store.Task(ctx, id); err != nil {
				return err
			}
		}
		if cur.Revision == 0 {
			return nil
		}
		if cur.Epoch != epoch {
			return stale(cur)
		}
		left, err := t.store.Delete(ctx, id, cur.Revision)
		if err != nil || left.Revision == 0 {
			return err
		}
		cur, certain = left, true
		if err := t.pause(ctx, round); err != nil {
			return err
		}
	}
	return tooMany()
}

// pause lets others finish when a record is fought over.
func (t *Tasks) pause(ctx context.Context, round int) error {
	if round < calmRounds {
		return nil
	}
	select {
	case <-time.After(rand.N(time.Duration(round) * pauseUnit)):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("task record is fought over: %w", ctx.Err())
	}
}

func notFound() error {
	return rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task has no record")
}

// stale tells who the owner is instead, so that the caller need not ask.
func stale(cur record.Task) error {
	return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "the record is of epoch %d", cur.Epoch).
		With("owner", cur.Owner).With("epoch", fmt.Sprint(cur.Epoch))
}

func tooMany() error {
	return rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "task record was changed by others %d times in a row", maxRounds)
}

// isUnavailable tells an etcd that is away from everything else.
func isUnavailable(err error) bool {
	var known *rpcerr.Error
	return errors.As(err, &known) && known.Reason == rpcerr.StoreUnavailable
}
