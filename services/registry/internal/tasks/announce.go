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

// atOnce bounds the records of one call that are written at the same time.
const atOnce = 16

// Announce tells of copies that a CDN has. It gives the records that name the
// CDN afterwards, and the tasks that need no copy of it. A record that a young
// store does not have may be put back by who answers for the task: until it is
// grown nobody else makes one of a copy, which the error says.
func (t *Tasks) Announce(ctx context.Context, cdn string, copies []record.Copy) (named []record.Task, unwanted []string, err error) {
	after := make([]record.Task, 0, len(copies))
	tooSoon := false
	for part := range slices.Chunk(copies, etcdstore.MaxReadTasks) {
		ids := make([]string, len(part))
		for i, c := range part {
			ids[i] = c.ID
		}
		scene, err := t.Store.ReadState(ctx, ids...)
		if err != nil {
			return nil, nil, err
		}
		records := make([]record.Task, len(part))
		var writes errgroup.Group
		writes.SetLimit(atOnce)
		for i, c := range part {
			if scene.Young && scene.Tasks[c.ID].Owner == "" {
				tooSoon = true
				continue
			}
			writes.Go(func() (err error) {
				records[i], err = t.announce(ctx, scene, ownership.Announce{CDN: cdn, Copy: c})
				return err
			})
		}
		if err := writes.Wait(); err != nil {
			return nil, nil, err
		}
		after = append(after, records...)
	}
	if tooSoon {
		return nil, nil, rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "records that are missing may still be put back")
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

// announce begins with what was read of many records at once.
func (t *Tasks) announce(ctx context.Context, scene etcdstore.State, req ownership.Announce) (record.Task, error) {
	task, won, err := t.step(ctx, scene, req.Copy.ID, req)
	if won || err != nil {
		return task, err
	}
	task, _, err = t.change(ctx, req.Copy.ID, req)
	return task, err
}
