// Package tasks changes task records as callers request. It reads the current state,
// has package ownership compute the next record, and writes that record if nothing has
// changed since.
//
// Invariants:
//
//   - A caller that loses a race tries again with the new state, so it gets the
//     winner's record.
//   - The cache is used to answer requests that change nothing. A change of owner,
//     replicas or scheduler is always computed from the store, so none of them loses
//     a task because a cache lags.
//   - Only Resolve changes a record without the store, and only in its answer, which is
//     marked as unclaimed.
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

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

const (
	// maxAttempts bounds the races that one call may lose if its caller has set no
	// deadline.
	maxAttempts = 32
	// immediateAttempts is the number of attempts before the first pause.
	immediateAttempts = 3
	// pauseUnit times the number of the attempt is the maximum of a random pause.
	pauseUnit = 5 * time.Millisecond
)

// Store reads records and writes them by compare-and-swap. Its errors have the reason
// STORE_UNAVAILABLE, or are those of the context.
type Store interface {
	// ReadState reads records and all members at one revision.
	ReadState(ctx context.Context, ids ...string) (etcdstore.State, error)
	// Task reads one record and the era. The Revision is 0 if there is no record.
	Task(ctx context.Context, id string) (task record.Task, era string, err error)
	// Swap writes a record if its conditions hold.
	Swap(ctx context.Context, swap etcdstore.Swap) (written record.Task, swapped bool, err error)
	// Delete removes a record if it has the given revision and the store the given era.
	Delete(ctx context.Context, id, era string, revision int64) (deleted bool, err error)
}

// Deps holds the dependencies of Tasks. All are required.
type Deps struct {
	Store   Store
	Cache   *cache.Cache
	Metrics *metrics.Metrics
	Log     *zap.Logger
	// Copies is the number of copies that a task should have, including the owner's.
	Copies int
}

// Tasks changes task records. It is safe for concurrent use.
type Tasks struct{ Deps }

// New returns a Tasks.
func New(deps Deps) *Tasks { return &Tasks{deps} }

// Get returns a record from the cache. If the cache has none, or if fresh is set, Get
// reads it from the store. While the store is unavailable, a record that the cache does
// not have is answered with NOT_FOUND, unless fresh is set.
func (t *Tasks) Get(ctx context.Context, id string, fresh bool) (record.Task, error) {
	if task, _, ok := t.Cache.Task(id); ok && task.Owner != "" && !fresh {
		return task, nil
	}
	task, _, err := t.Store.Task(ctx, id)
	if era, _ := t.Cache.Position(); isUnavailable(err) && !fresh && era != "" {
		return record.Task{}, notFound()
	}
	if err == nil && task.Owner == "" {
		err = notFound()
	}
	return task, err
}

// change makes the step that a request results in. It returns the record after it, and
// the state that the step was computed from.
func (t *Tasks) change(ctx context.Context, id string, req ownership.Request) (record.Task, etcdstore.State, error) {
	for attempt := range maxAttempts {
		state, err := t.Store.ReadState(ctx, id)
		if err != nil {
			return record.Task{}, state, err
		}
		task, done, err := t.step(ctx, state, id, req)
		if done || err != nil {
			return task, state, err
		}
		if err := t.pause(ctx, attempt); err != nil {
			return record.Task{}, state, err
		}
	}
	return record.Task{}, etcdstore.State{}, tooManyConflicts()
}

// step makes one attempt. done is false if the record or a member has changed since the
// state was read. A step that changes nothing is done without a write.
func (t *Tasks) step(ctx context.Context, state etcdstore.State, id string, req ownership.Request) (after record.Task, done bool, err error) {
	cur := state.Tasks[id]
	step, err := ownership.Next(cur, t.clusterFrom(state), req)
	if err != nil || !step.Changed {
		return cur, err == nil, err
	}
	task, swapped, err := t.Store.Swap(ctx, etcdstore.Swap{
		Task: step.Next, Era: state.Era, Absent: step.Absent, Present: step.Present, Kind: string(step.Kind),
	})
	if swapped && err == nil {
		t.logChange(step.Kind, cur, task)
	}
	return task, swapped, err
}

// logChange logs a change of a record. Claims and announced copies are frequent, so they
// are logged at debug level.
func (t *Tasks) logChange(kind ownership.Kind, before, after record.Task) {
	log := t.Log.Info
	if kind == ownership.KindClaim || kind == ownership.KindAnnounce {
		log = t.Log.Debug
	}
	log("changed a task record", zap.String("kind", string(kind)), zap.String("task_id", after.ID), zap.Int64("epoch", after.Epoch),
		zap.String("cdn_id", after.Owner), zap.Strings("replicas", after.Replicas), zap.String("scheduler_id", after.Scheduler),
		zap.String("former_cdn_id", before.Owner), zap.String("former_scheduler_id", before.Scheduler))
}

// clusterFrom returns the cluster in a state of the store. Loads are from the cache: they
// only influence which CDN is chosen.
func (t *Tasks) clusterFrom(state etcdstore.State) ownership.Cluster {
	return ownership.Cluster{
		Member: func(key record.MemberKey) (record.Member, bool) {
			m, ok := state.Members[key]
			return m, ok
		},
		CDNs: func() []record.Member {
			var cdns []record.Member
			for key, m := range state.Members {
				if key.Role == record.RoleCDN {
					cdns = append(cdns, m)
				}
			}
			return cdns
		},
		Load: t.load, Copies: t.Copies, Young: state.Young,
	}
}

// cachedCluster returns the cluster in the cache.
func (t *Tasks) cachedCluster() ownership.Cluster {
	return ownership.Cluster{
		Member: t.Cache.Member,
		CDNs: func() []record.Member {
			var cdns []record.Member
			all, _ := t.Cache.Members()
			for _, m := range all {
				if m.Role == record.RoleCDN {
					cdns = append(cdns, m)
				}
			}
			return cdns
		},
		Load: t.load, Copies: t.Copies,
	}
}

func (t *Tasks) load(cdn string) ownership.Load { return ownership.Load(t.Cache.Load(cdn)) }

// pause waits before the next attempt, for a random time that grows with the number of
// attempts. There is no pause after the first attempts.
func (t *Tasks) pause(ctx context.Context, attempt int) error {
	if attempt < immediateAttempts {
		return nil
	}
	select {
	case <-time.After(rand.N(time.Duration(attempt) * pauseUnit)):
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting to change a task record again after a conflict: %w", ctx.Err())
	}
}

func notFound() error {
	return rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "the task has no record")
}

func tooManyConflicts() error {
	return rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "other calls changed the task record %d times in a row", maxAttempts)
}

// isUnavailable reports whether an error has the reason STORE_UNAVAILABLE.
func isUnavailable(err error) bool {
	var known *rpcerr.Error
	return errors.As(err, &known) && known.Reason == rpcerr.StoreUnavailable
}
