package tasks

import (
	"context"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Repair replaces the lost owner and the lost replicas in a record that names cdn.
func (t *Tasks) Repair(ctx context.Context, id, cdn string) (record.Task, error) {
	task, _, err := t.change(ctx, id, ownership.Repair{CDN: cdn})
	return task, err
}

// Move makes another CDN the owner: the one in to, or, if to is empty, the best one.
func (t *Tasks) Move(ctx context.Context, id string, epoch int64, to string) (record.Task, error) {
	task, _, err := t.change(ctx, id, ownership.Move{Epoch: epoch, To: to})
	return task, err
}

// Resign removes a CDN from a record. It returns false if the task has no record.
func (t *Tasks) Resign(ctx context.Context, id, cdn string) (record.Task, bool, error) {
	task, _, err := t.change(ctx, id, ownership.Resign{CDN: cdn})
	return task, task.Owner != "", err
}
