package table

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// handovers is how many tasks are handed over at the same time.
const handovers = 32

// HandOver gives the tasks that are here to their standbys, once those know the
// latest of them, or until ctx ends. Who asks here then is sent there.
func (t *Table) HandOver(ctx context.Context) error {
	t.mu.Lock()
	t.leaving = true
	t.mu.Unlock()
	told := t.flush(ctx) // one that is behind is better than none
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

// flush waits for the standbys for half of the time that there is.
func (t *Table) flush(ctx context.Context) error {
	deadline, ok := ctx.Deadline()
	if ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
	}
	return t.deps.Mirror.Flush(ctx)
}
