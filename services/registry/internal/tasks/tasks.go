// Package tasks carries out what callers wish of task records: it looks at the
// store, lets package ownership say what follows, and writes that if nothing
// has changed meanwhile. Whoever loses a race looks again, and so answers the
// winner's record. The copy is trusted where nothing has to change; nothing is
// taken from anybody on its word.
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
	// maxRounds bounds the races one call may lose when its caller set no deadline.
	maxRounds = 32
	// calmRounds are tried at once; after them the caller pauses a little.
	calmRounds = 3
	pauseUnit  = 5 * time.Millisecond
)

// Store is compare-and-swap of records. Its errors have reason
// STORE_UNAVAILABLE, or are those of the context.
type Store interface {
	// ReadState reads records and all members at one revision.
	ReadState(ctx context.Context, ids ...string) (etcdstore.State, error)
	// Task reads one record and the era; Revision 0 means there is none.
	Task(ctx context.Context, id string) (task record.Task, era string, err error)
	// Swap writes a record if its conditions hold.
	Swap(ctx context.Context, swap etcdstore.Swap) (written record.Task, won bool, err error)
	// Delete removes a record if it is still of that revision in that era.
	Delete(ctx context.Context, id, era string, revision int64) (won bool, err error)
}

// Deps are what Tasks is made of. All are required.
type Deps struct {
	Store   Store
	Cache   *cache.Cache
	Metrics *metrics.Metrics
	Log     *zap.Logger
	// Copies is how many copies of a task are kept, the owner's included.
	Copies int
}

// Tasks changes task records. Use New.
type Tasks struct{ Deps }

// New makes the decisions over a store and its copy.
func New(deps Deps) *Tasks { return &Tasks{deps} }

// Get gives a record as it stands: from the copy, or, if that has none or a
// fresh answer is asked for, from the store.
func (t *Tasks) Get(ctx context.Context, id string, fresh bool) (record.Task, error) {
	if task, _, ok := t.Cache.Task(id); ok && task.Owner != "" && !fresh {
		return task, nil
	}
	task, _, err := t.Store.Task(ctx, id)
	if era, _ := t.Cache.Position(); isUnavailable(err) && !fresh && era != "" {
		return record.Task{}, notFound() // as last seen
	}
	if err == nil && task.Owner == "" {
		err = notFound()
	}
	return task, err
}

// change makes the step that a request asks for, if any, and gives the record
// afterwards.
func (t *Tasks) change(ctx context.Context, id string, req ownership.Request) (record.Task, etcdstore.State, error) {
	for round := range maxRounds {
		scene, err := t.Store.ReadState(ctx, id)
		if err != nil {
			return record.Task{}, scene, err
		}
		task, won, err := t.step(ctx, scene, id, req)
		if won || err != nil {
			return task, scene, err
		}
		if err := t.pause(ctx, round); err != nil {
			return record.Task{}, scene, err
		}
	}
	return record.Task{}, etcdstore.State{}, tooMany()
}

// step makes one attempt; a step that changes nothing is won as it is.
func (t *Tasks) step(ctx context.Context, scene etcdstore.State, id string, req ownership.Request) (record.Task, bool, error) {
	cur := scene.Tasks[id]
	step, err := ownership.Next(cur, t.worldOf(scene), req)
	if err != nil || !step.Changed {
		return cur, err == nil, err
	}
	task, won, err := t.Store.Swap(ctx, etcdstore.Swap{
		Task: step.Next, Era: scene.Era, Absent: step.Absent, Present: step.Present, Kind: string(step.Kind),
	})
	if won && err == nil {
		t.tell(step.Kind, cur, task)
	}
	return task, won, err
}

// tell logs what a step changed.
func (t *Tasks) tell(kind ownership.Kind, before, after record.Task) {
	log := t.Log.Info
	if kind == ownership.KindClaim || kind == ownership.KindAnnounce {
		log = t.Log.Debug
	}
	log("task record changed", zap.String("kind", string(kind)), zap.String("task_id", after.ID), zap.Int64("epoch", after.Epoch),
		zap.String("cdn_id", after.Owner), zap.Strings("replicas", after.Replicas), zap.String("scheduler_id", after.Scheduler),
		zap.String("former_cdn_id", before.Owner), zap.String("former_scheduler_id", before.Scheduler))
}

// worldOf is the world as the store has it; loads are hints of the copy.
func (t *Tasks) worldOf(scene etcdstore.State) ownership.Cluster {
	return ownership.Cluster{
		Member: func(key record.MemberKey) (record.Member, bool) {
			m, ok := scene.Members[key]
			return m, ok
		},
		CDNs: func() []record.Member {
			var cdns []record.Member
			for key, m := range scene.Members {
				if key.Role == record.RoleCDN {
					cdns = append(cdns, m)
				}
			}
			return cdns
		},
		Load: t.load, Copies: t.Copies, Young: scene.Young,
	}
}

// copied is the world as the copy shows it.
func (t *Tasks) copied() ownership.Cluster {
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

func tooMany() error {
	return rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "task record was changed by others %d times in a row", maxRounds)
}

// isUnavailable tells a store that is away from everything else.
func isUnavailable(err error) bool {
	var known *rpcerr.Error
	return errors.As(err, &known) && known.Reason == rpcerr.StoreUnavailable
}
