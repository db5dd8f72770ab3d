package tasks

import (
	"context"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Repair makes a record right for a CDN that it names.
func (t *Tasks) Repair(ctx context.Context, id, cdn string) (record.Task, error) {
	task, _, err := t.change(ctx, id, ownership.Repair{CDN: cdn})
	return task, err
}

// Move makes another CDN the owner, the one named or the best there is.
func (t *Tasks) Move(ctx context.Context, id string, epoch int64, to string) (record.Task, error) {
	task, _, err := t.change(ctx, id, ownership.Move{Epoch: epoch, To: to})
	return task, err
}

// Resign takes a CDN out of a record; false when there is none.
func (t *Tasks) Resign(ctx context.Context, id, cdn string) (record.Task, bool, error) {
	task, _, err := t.change(ctx, id, ownership.Resign{CDN: cdn})
	return task, task.Owner != "", err
}
