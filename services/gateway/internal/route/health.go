package route

import (
	"context"
	"errors"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// A call without an answer may be held by a healthy scheduler, or the scheduler
// may be frozen or unreachable. gRPC's keep-alive needs at least 10 s to detect
// the latter, but a client waits only 5 s. So the scheduler of a call that has no
// answer is health-checked, and an unresponsive one costs the call 1 s.
const (
	// checkInterval is how long a call may be without an answer before its
	// scheduler is checked, and how long the result of a check is valid.
	checkInterval = 500 * time.Millisecond
	// checkTimeout limits one health check.
	checkTimeout = 500 * time.Millisecond
	// avoidFor is how long a scheduler counts as unresponsive after a failed
	// check. It is about the time of a lease: afterwards a scheduler that is still
	// down is no longer a member.
	avoidFor = 5 * time.Second
	// maxEndpoints limits the endpoints whose health is stored.
	maxEndpoints = 1024
)

// errUnresponsive is the cause with which the context of a call is cancelled when
// its scheduler fails a health check.
var errUnresponsive = errors.New("it answers no ping")

// healthChecker checks schedulers and stores the results. Concurrent calls to one
// endpoint share its checks, of which one is running at a time.
type healthChecker struct {
	endpoints *lru.Cache[string, *endpointHealth]
}

// endpointHealth holds the result of the last check of an endpoint.
type endpointHealth struct {
	checking chan struct{} // a semaphore of one that the running check holds

	mu        sync.Mutex // guards the fields below
	checkedAt time.Time  // the end of the last check
	failed    bool       // the last check got no answer
}

func (h *endpointHealth) last() (at time.Time, failed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.checkedAt, h.failed
}

// unresponsive reports whether the last check of endpoint has failed within
// avoidFor.
func (c *healthChecker) unresponsive(endpoint string) bool {
	h, ok := c.endpoints.Peek(endpoint)
	if !ok {
		return false
	}
	at, failed := h.last()
	return failed && time.Since(at) < avoidFor
}

// watch checks endpoint until ctx ends, and then returns nil. It returns
// errUnresponsive as soon as a check fails.
func (c *healthChecker) watch(ctx context.Context, endpoint string, conn grpc.ClientConnInterface) error {
	h, ok := c.endpoints.Get(endpoint)
	if !ok {
		h = &endpointHealth{checking: make(chan struct{}, 1)}
		if first, there, _ := c.endpoints.PeekOrAdd(endpoint, h); there {
			h = first
		}
	}
	pause := time.NewTimer(0)
	defer pause.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
		if failed := h.check(ctx, conn); failed {
			return errUnresponsive
		}
		pause.Reset(checkInterval)
	}
}

// check returns true if the endpoint does not answer. It uses the result of an
// earlier check that is still valid, or else makes one. If ctx ends during the
// check, nothing is stored and check returns false.
func (h *endpointHealth) check(ctx context.Context, conn grpc.ClientConnInterface) (failed bool) {
	select {
	case h.checking <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-h.checking }()
	if at, failed := h.last(); time.Since(at) < checkInterval {
		return failed
	}
	limited, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	_, err := healthv1.NewHealthClient(conn).Check(limited, &healthv1.HealthCheckRequest{})
	if ctx.Err() != nil {
		return false // the call has ended before the check had a result
	}
	// Any answer, an error included, shows that the scheduler is alive.
	code := status.Code(err)
	failed = code == codes.DeadlineExceeded || code == codes.Unavailable
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkedAt, h.failed = time.Now(), failed
	return failed
}
