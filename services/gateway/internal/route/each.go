package route

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// fanOut is how many schedulers Each asks at a time.
const fanOut = 8

// Each asks every scheduler, a few at a time, and gives each of them limit.
// call runs concurrently. Schedulers that fail are passed over; it is an error
// only if none answered.
func (r *Router) Each(ctx context.Context, limit time.Duration, call Call) error {
	members := r.members.Schedulers()
	if len(members) == 0 {
		return rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "there is no scheduler")
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
			err := r.attempt(ctx, m, limit, call)
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
	_ = group.Wait() // no call returns an error
	if answered {
		return nil
	}
	return last
}
