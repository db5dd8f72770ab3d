package table

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sync/errgroup"
)

// handovers is how many tasks are handed over at the same time.
const handovers = 32

// HandOver gives the tasks that are here to their standbys, once those know the
// latest of them, or until ctx ends. Who asks here then is sent there.
func (t *Table) HandOver(ctx context.Context) error {
	told := t.deps.Mirror.Flush(ctx) // one that is behind is better than none
	var work errgroup.Group
	work.SetLimit(handovers)
	for _, e := range t.entries() {
		to, ok := t.deps.Mirror.Standby(e.ID)
		if !ok {
			continue // nobody is there
		}
		work.Go(func() error { return t.deps.Follower.Claims.HandOver(ctx, e.ID, to.ID) })
	}
	if err := errors.Join(told, work.Wait()); err != nil {
		return fmt.Errorf("handing tasks over: %w", err)
	}
	return nil
}
