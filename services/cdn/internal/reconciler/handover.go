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
	// copyCheckInterval is the pause between two looks at what others have.
	copyCheckInterval = 100 * time.Millisecond
	// maxCopyChecks is how many others are asked at a time.
	maxCopyChecks    = 16
	copyCheckTimeout = time.Second
	// maxRegistryOutage is how long a handover waits for a registry.
	maxRegistryOutage = 3 * time.Second
)

// Handover makes other CDNs the owners of all that this instance owns, and
// waits until they have as much of it as this one. It returns the error of ctx
// when that ends before, and has no way back: the instance is to leave.
func (r *Reconciler) Handover(ctx context.Context) error {
	done, err := query(ctx, r, (*state).startHandover)
	if err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	stopTimer := r.moveAtOnceAfter(ctx)
	defer stopTimer()
	if err := r.awaitOwners(ctx, done); err != nil {
		return fmt.Errorf("handing over: not all tasks have another owner: %w", err)
	}
	return r.awaitCopies(ctx)
}

// moveAtOnceAfter has the rest handed over whether others have copies or not when
// two thirds of the time are over. The function that it gives ends that.
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
			_ = r.send(ctx, (*state).moveAllAtOnce) // what cannot be sent is over
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// awaitOwners waits until done is closed, but not long for a registry that
// does not answer or has no store: whoever takes over then will have to find out.
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
				return errors.New("no registry answers")
			}
		}
	}
}

// awaitCopies waits until the new owners have what this instance has.
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
			return fmt.Errorf("handing over: %d tasks are not whole elsewhere: %w", len(incomplete), ctx.Err())
		}
	}
	return nil
}

// incompleteCopies are those of which the new owner has less than this instance.
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

// hasCopy asks whether the CDN at endpoint has as much of the task as this one.
func (r *Reconciler) hasCopy(ctx context.Context, endpoint string, own task.Inventory) bool {
	if endpoint == "" {
		return false
	}
	conn, err := r.dial(endpoint)
	if err != nil {
		r.log.Debug("asking another cdn for its copy", zap.String("endpoint", endpoint), zap.Error(err))
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
