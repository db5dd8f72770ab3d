package keeper

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
	// lookEvery is the pause between two looks at what others have.
	lookEvery = 100 * time.Millisecond
	// mostLooks is how many others are asked at a time.
	mostLooks   = 16
	lookTimeout = time.Second
	// mostSilence is how long a handover waits for a registry.
	mostSilence = 3 * time.Second
)

// Handover makes other CDNs the owners of all that this instance owns, and
// waits until they have as much of it as this one. It returns the error of ctx
// when that ends before, and has no way back: the instance is to leave.
func (k *Keeper) Handover(ctx context.Context) error {
	done, err := ask(ctx, k, (*desk).leave)
	if err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	hurry := k.hurryAfter(ctx)
	defer hurry()
	if err := k.awaitOwners(ctx, done); err != nil {
		return fmt.Errorf("handing over: not all tasks have another owner: %w", err)
	}
	return k.awaitCopies(ctx)
}

// hurryAfter has the rest handed over whether others have copies or not when
// two thirds of the time are over. The function that it gives ends that.
func (k *Keeper) hurryAfter(ctx context.Context) (end func()) {
	deadline, limited := ctx.Deadline()
	if !limited {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if pause(ctx, time.Until(deadline)*2/3); ctx.Err() == nil {
			_ = k.send(ctx, (*desk).hasten) // what cannot be sent is over
		}
	}()
	return func() {
		cancel()
		<-ended
	}
}

// awaitOwners waits until done is closed, but not long for a registry that
// does not answer or has no store: whoever takes over then will have to find out.
func (k *Keeper) awaitOwners(ctx context.Context, done <-chan struct{}) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for heard := time.Now(); ; {
		select {
		case <-done:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-look.C:
			answers, err := ask(ctx, k, func(d *desk) bool { return d.complete && !d.storeless })
			if err != nil {
				return err
			}
			if answers {
				heard = time.Now()
			}
			if time.Since(heard) > mostSilence {
				return errors.New("no registry answers")
			}
		}
	}
}

// awaitCopies waits until the new owners have what this instance has.
func (k *Keeper) awaitCopies(ctx context.Context) error {
	open, err := ask(ctx, k, (*desk).given)
	if err != nil {
		return fmt.Errorf("handing over: %w", err)
	}
	for len(open) > 0 {
		if open, err = k.missing(ctx, open); err != nil {
			return err
		}
		if len(open) > 0 {
			pause(ctx, lookEvery)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("handing over: %d tasks are not whole elsewhere: %w", len(open), ctx.Err())
		}
	}
	return nil
}

// missing are those of which the new owner has less than this instance.
func (k *Keeper) missing(ctx context.Context, own []task.Inventory) ([]task.Inventory, error) {
	places, err := ask(ctx, k, func(d *desk) map[task.ID]string { return d.places(own) })
	if err != nil {
		return own, fmt.Errorf("handing over: %w", err)
	}
	var mu sync.Mutex
	var open []task.Inventory // guarded by mu
	var looks sync.WaitGroup
	slots := make(chan struct{}, mostLooks)
	for _, copied := range own {
		endpoint, wanted := places[copied.ID]
		if !wanted {
			continue
		}
		slots <- struct{}{}
		looks.Go(func() {
			defer func() { <-slots }()
			if !k.has(ctx, endpoint, copied) {
				mu.Lock()
				defer mu.Unlock()
				open = append(open, copied)
			}
		})
	}
	looks.Wait()
	return open, nil
}

// has asks whether the CDN at endpoint has as much of the task as this one.
func (k *Keeper) has(ctx context.Context, endpoint string, own task.Inventory) bool {
	if endpoint == "" {
		return false
	}
	conn, err := k.dial(endpoint)
	if err != nil {
		k.log.Debug("asking another cdn for its copy", zap.String("endpoint", endpoint), zap.Error(err))
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	there, err := cdnv1.NewCdnServiceClient(conn).Stat(ctx, &cdnv1.StatRequest{TaskId: string(own.ID)})
	if err != nil {
		return false
	}
	return there.GetResult() != nil || !own.Whole && int(there.GetPieceCount()) >= own.Pieces
}
