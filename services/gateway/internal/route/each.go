package route

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
)

// fanOut is the number of schedulers that Each calls concurrently.
const fanOut = 8

// MemberCall is a call to the scheduler with the given id.
type MemberCall func(ctx context.Context, schedulerID string, conn grpc.ClientConnInterface) error

// Each calls every scheduler, fanOut at a time, each for at most limit. call runs
// concurrently. Each returns an error only if no scheduler succeeded; it is the
// error of one of them.
func (r *Router) Each(ctx context.Context, limit time.Duration, call MemberCall) error {
	members := r.members.Schedulers()
	if len(members) == 0 {
		return noScheduler()
	}
	var (
		mu       sync.Mutex // guards answered and last
		answered bool
		last     error
		group    errgroup.Group
	)
	group.SetLimit(fanOut)
	for _, m := range members {
		group.Go(func() error {
			err := r.attempt(ctx, m, limit, func(ctx context.Context, conn grpc.ClientConnInterface) error {
				return call(ctx, m.ID, conn)
			})
			if err != nil {
				r.recordFailure("", m, err)
			}
			mu.Lock()
			defer mu.Unlock()
			answered = answered || err == nil
			if err != nil {
				last = err
			}
			return nil
		})
	}
	_ = group.Wait() // the functions of the group return no error
	if answered {
		return nil
	}
	return last
}
