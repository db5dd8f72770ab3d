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

// A call that has no answer may be held, or its scheduler may be frozen or out
// of reach. gRPC's own keep-alive tells that in 10 s at the earliest, and a
// client waits for 5 s in all; so a scheduler that is silent is pinged. With
// these, one that hangs costs a call 1 s.
const (
	// checkInterval is how long a call may be without an answer before its scheduler
	// is pinged, and how old the answer to a ping may be to count.
	checkInterval = 500 * time.Millisecond
	// checkTimeout is how long a ping may take.
	checkTimeout = 500 * time.Millisecond
	// avoidFor is how long one that answered no ping is asked after the others.
	// It is about a lease: then it is no member any more, or well again.
	avoidFor = 5 * time.Second
	// maxEndpoints bounds those whose health is kept.
	maxEndpoints = 1024
)

// errUnresponsive is why a call to a scheduler that answers no ping was ended.
var errUnresponsive = errors.New("it answers no ping")

// healthChecker is what is known of the schedulers' being alive. One ping at a time
// goes to an endpoint, however many calls wait there.
type healthChecker struct {
	endpoints *lru.Cache[string, *endpointHealth]
}

type endpointHealth struct {
	checking chan struct{} // held by who pings

	mu        sync.Mutex // guards what follows
	checkedAt time.Time  // when the last ping ended
	failed    bool       // how
}

func (h *endpointHealth) last() (at time.Time, failed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.checkedAt, h.failed
}

// unresponsive tells whether the endpoint is to be asked after the others.
func (c *healthChecker) unresponsive(endpoint string) bool {
	h, ok := c.endpoints.Peek(endpoint)
	if !ok {
		return false
	}
	at, failed := h.last()
	return failed && time.Since(at) < avoidFor
}

// watch pings until ctx ends, and gives errUnresponsive once that gets no answer.
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

// check gives the result of somebody's ping that is new enough, else its own.
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
		return false // who asked has gone: that says nothing
	}
	// Whatever a server says, it is alive.
	code := status.Code(err)
	failed = code == codes.DeadlineExceeded || code == codes.Unavailable
	h.mu.Lock()
	defer h.mu.Unlock()
	h.checkedAt, h.failed = time.Now(), failed
	return failed
}
