package reconciler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	// copyCheckInterval is the time between two checks of the copies of other CDNs.
	copyCheckInterval = 100 * time.Millisecond
	// maxCopyChecks bounds the concurrent checks. copyCheckTimeout bounds one of them.
	maxCopyChecks    = 16
	copyCheckTimeout = time.Second
	// maxRegistryOutage is how long a handover waits for a registry with a store.
	maxRegistryOutage = 3 * time.Second
)

// Handover moves all tasks that this instance owns to other CDNs and waits until their
// copies are as complete as the local ones. It returns an error if ctx ends before, or if
// the registry or its store is unavailable. It cannot be undone: the instance must stop
// afterwards.
func (r *Reconciler) Handover(ctx context.Context) error {
	done, err := query(ctx, r, (*state).startHandover)
	if err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	stopTimer := r.moveAtOnceAfter(ctx)
	defer stopTimer()
	if err := r.awaitOwners(ctx, done); err != nil {
		return fmt.Errorf("handing over: some tasks have no new owner: %w", err)
	}
	return r.awaitCopies(ctx)
}

// moveAtOnceAfter moves the remaining tasks without waiting for copies once two thirds of
// the time until the deadline of ctx have passed. The caller must call stop.
func (r *Reconciler) moveAtOnceAfter(ctx context.Context) (stop func()) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if sleep(ctx, time.Until(deadline)*2/3); ctx.Err() == nil {
			_ = r.send(ctx, (*state).moveAllAtOnce) // fails only if the handover or Run ends
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// awaitOwners waits until done is closed. It returns an error if no registry with a store
// is available for maxRegistryOutage. The other CDNs then take the tasks over once this
// instance is not a member any more.
func (r *Reconciler) awaitOwners(ctx context.Context, done <-chan struct{}) error {
	ticker := time.NewTicker(copyCheckInterval)
	defer ticker.Stop()
	for lastAnswer := time.Now(); ; {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
			available, err := query(ctx, r, func(s *state) bool { return s.complete && !s.storeUnavailable })
			if err != nil {
				return err
			}
			if available {
				lastAnswer = time.Now()
			}
			if time.Since(lastAnswer) > maxRegistryOutage {
				return errors.New("the registry or its store is unavailable")
			}
		}
	}
}

// awaitCopies waits until the copies of the new owners are as complete as the local ones.
func (r *Reconciler) awaitCopies(ctx context.Context) error {
	incomplete, err := query(ctx, r, (*state).movedCopies)
	if err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	for len(incomplete) > 0 {
		if incomplete, err = r.incompleteCopies(ctx, incomplete); err != nil {
			return err
		}
		if len(incomplete) > 0 {
			sleep(ctx, copyCheckInterval)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("handing over: the new owners have incomplete copies of %d tasks: %w", len(incomplete), ctx.Err())
		}
	}
	return nil
}

// incompleteCopies returns the local copies of which the new owner has fewer pieces.
func (r *Reconciler) incompleteCopies(ctx context.Context, own []task.Inventory) ([]task.Inventory, error) {
	endpoints, err := query(ctx, r, func(s *state) map[task.ID]string { return s.ownerEndpoints(own) })
	if err != nil {
		return own, fmt.Errorf("handing over: %w", err)
	}
	var mu sync.Mutex
	var incomplete []task.Inventory // guarded by mu
	var checks sync.WaitGroup
	slots := make(chan struct{}, maxCopyChecks)
	for _, copied := range own {
		endpoint, wanted := endpoints[copied.ID]
		if !wanted {
			continue
		}
		slots <- struct{}{}
		checks.Go(func() {
			defer func() { <-slots }()
			if !r.hasCopy(ctx, endpoint, copied) {
				mu.Lock()
				defer mu.Unlock()
				incomplete = append(incomplete, copied)
			}
		})
	}
	checks.Wait()
	return incomplete, nil
}

// hasCopy reports whether the copy of the CDN at endpoint is as complete as the local one.
func (r *Reconciler) hasCopy(ctx context.Context, endpoint string, own task.Inventory) bool {
	if endpoint == "" {
		return false
	}
	conn, err := r.dial(endpoint)
	if err != nil {
		r.log.Debug("cannot reach another CDN to check its copy", zap.String("endpoint", endpoint), zap.Error(err))
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, copyCheckTimeout)
	defer cancel()
	there, err := cdnv1.NewCdnServiceClient(conn).Stat(ctx, &cdnv1.StatRequest{TaskId: string(own.ID)})
	if err != nil {
		return false
	}
	return there.GetResult() != nil || !own.Whole && int(there.GetPieceCount()) >= own.Pieces
}
