package tasks

import (
	"context"
	"slices"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// maxConcurrentWrites bounds the records of one call that are written at the same time.
const maxConcurrentWrites = 16

// Announce processes the copies that a CDN has on its disk. It returns the records
// that name the CDN afterwards, and the ids of the tasks that need no copy on it.
//
// While the store is young, the scheduler of a task may still restore its record.
// Announce therefore creates no record then, and returns STORE_UNAVAILABLE if any is
// missing.
func (t *Tasks) Announce(ctx context.Context, cdn string, copies []record.Copy) (named []record.Task, unwanted []string, err error) {
	after := make([]record.Task, 0, len(copies))
	mayBeRestored := false
	for part := range slices.Chunk(copies, etcdstore.MaxReadTasks) {
		ids := make([]string, len(part))
		for i, c := range part {
			ids[i] = c.ID
		}
		state, err := t.Store.ReadState(ctx, ids...)
		if err != nil {
			return nil, nil, err
		}
		records := make([]record.Task, len(part))
		var writes errgroup.Group
		writes.SetLimit(maxConcurrentWrites)
		for i, c := range part {
			if state.Young && state.Tasks[c.ID].Owner == "" {
				mayBeRestored = true
				continue
			}
			writes.Go(func() (err error) {
				records[i], err = t.announce(ctx, state, ownership.Announce{CDN: cdn, Copy: c})
				return err
			})
		}
		if err := writes.Wait(); err != nil {
			return nil, nil, err
		}
		after = append(after, records...)
	}
	if mayBeRestored {
		return nil, nil, rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "the store is young: schedulers may still restore the missing records")
	}
	for i, task := range after {
		if task.Names(cdn) {
			named = append(named, task)
		} else {
			unwanted = append(unwanted, copies[i].ID)
		}
	}
	return named, unwanted, nil
}

// announce makes the first attempt with a state that was read for many records.
func (t *Tasks) announce(ctx context.Context, state etcdstore.State, req ownership.Announce) (record.Task, error) {
	task, done, err := t.step(ctx, state, req.Copy.ID, req)
	if done || err != nil {
		return task, err
	}
	task, _, err = t.change(ctx, req.Copy.ID, req)
	return task, err
}
