// Package route finds the scheduler of a task and asks it. The hash only hints
// at who that is: a scheduler that does not own the task says who does, which
// is followed and remembered; one that does not answer is passed over for the
// next. What is asked, and what an error means to a client, is not known here.
package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
)

const (
	// maxOwners bounds the tasks whose owner is kept because it is not the
	// one that the hash names.
	maxOwners = 100_000
	// maxHops bounds how often a scheduler's word on who owns the task is
	// followed in one round.
	maxHops = 3
	// maxCandidates bounds the schedulers that are tried of themselves in one
	// round: more than that do not die together within a lease.
	maxCandidates = 4
	// Rounds are apart by this much at first, then by twice as much each, up to
	// the last.
	firstPause, lastPause = 25 * time.Millisecond, 400 * time.Millisecond
)

// Members is who is in the cluster.
type Members interface {
	// Schedulers are the schedulers as last seen. It is called for each
	// request, so it must be cheap; the result is not changed.
	Schedulers() []cluster.Member
}

// Dial gives the connection to an endpoint. Connections are its owner's: they
// are kept for the next call and closed elsewhere.
type Dial func(endpoint string) (grpc.ClientConnInterface, error)

// Call asks one scheduler. It is called once for each attempt and must heed ctx.
type Call func(ctx context.Context, conn grpc.ClientConnInterface) error

// Plan is how hard to try. How long is the deadline of the context.
type Plan struct {
	// AttemptTimeout is how long one scheduler may take that is alive. One that
	// answers no ping is left after 1 s, with whatever it may have taken.
	AttemptTimeout time.Duration
	// RetryFor is for how long it asks all over, after pauses, while the error can
	// be repaired; 0 asks once.
	RetryFor time.Duration
}

// Router is safe for concurrent use.
type Router struct {
	members  Members
	dial     Dial
	log      *zap.Logger
	failures *prometheus.CounterVec
	owners   *lru.Cache[string, string] // task to the id of its scheduler
	health   healthChecker
}

// New makes a router that knows of no owner yet.
func New(members Members, dial Dial, log *zap.Logger, metrics prometheus.Registerer) (*Router, error) {
	owners, err := lru.New[string, string](maxOwners)
	if err != nil {
		return nil, fmt.Errorf("making the memory of owners: %w", err)
	}
	endpoints, err := lru.New[string, *endpointHealth](maxEndpoints)
	if err != nil {
		return nil, fmt.Errorf("making the memory of health checks: %w", err)
	}
	failures := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_gateway_scheduler_failures_total",
		Help: "Calls that a scheduler did not answer or answered with an error, by gRPC code.",
	}, []string{"code"})
	if err := metrics.Register(failures); err != nil {
		return nil, fmt.Errorf("registering the router's metrics: %w", err)
	}
	return &Router{members: members, dial: dial, log: log, failures: failures, owners: owners, health: healthChecker{endpoints: endpoints}}, nil
}

// Do asks the scheduler of a task. ctx must have a deadline. The error is that
// of the last scheduler that was asked.
func (r *Router) Do(ctx context.Context, task string, plan Plan, call Call) error {
	until := time.Now().Add(plan.RetryFor)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := r.round(ctx, task, plan, call)
		if err == nil || time.Until(until) < pause || !errmap.Retryable(err) || !sleep(ctx, pause) {
			return err
		}
	}
}

// round tries one scheduler after the other until one has decided.
func (r *Router) round(ctx context.Context, task string, plan Plan, call Call) error {
	queue, first := r.candidates(task)
	if len(queue) == 0 {
		return rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "there is no scheduler")
	}
	hops := 0
	tried := make(map[string]bool, len(queue))
	var last error
	for i := 0; i < len(queue); i++ {
		m := queue[i]
		if tried[m.ID] {
			continue
		}
		tried[m.ID] = true
		err := r.attempt(ctx, m, plan.AttemptTimeout, call)
		if err == nil {
			r.storeOwner(task, m.ID, first)
			return nil
		}
		r.recordFailure(task, m, err)
		// Without a CDN the owner itself can do nothing. If another scheduler hears
		// one, the owner gives the task to it and then sends us there
		// (docs/adr/0008): whoever is asked before that sends us back.
		if ctx.Err() != nil || !errmap.Retryable(err) || rpcerr.ReasonOf(err) == rpcerr.NoCDN {
			return err
		}
		if owner, ok := r.ownerFrom(err); ok && hops < maxHops && !tried[owner.ID] {
			hops++
			r.owners.Add(task, owner.ID)
			queue = slices.Insert(queue, i+1, owner)
		} else if id, ok := r.owners.Peek(task); ok && id == m.ID {
			r.owners.Remove(task)
		}
		last = err
	}
	return last
}

func (r *Router) attempt(ctx context.Context, m cluster.Member, limit time.Duration, call Call) error {
	conn, err := r.dial(m.Endpoint)
	if err != nil {
		return rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "reaching scheduler %s: %v", m.ID, err)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ctx, end := context.WithCancelCause(ctx)
	defer r.watch(ctx, end, m.Endpoint, conn)()
	if err := call(ctx, conn); err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errUnresponsive) {
			return rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "asking scheduler %s: %v", m.ID, cause)
		}
		return rpcerr.From(err) // its text is the scheduler's, without gRPC's words around it
	}
	return nil
}

// watch ends a call's context when its scheduler turns out to be silent. Most
// calls are answered before anything is done for that. What is returned ends
// the watch, and waits for that.
func (r *Router) watch(ctx context.Context, end context.CancelCauseFunc, endpoint string, conn grpc.ClientConnInterface) func() {
	ended := make(chan struct{})
	timer := time.AfterFunc(checkInterval, func() {
		defer close(ended)
		end(r.health.watch(ctx, endpoint, conn))
	})
	return func() {
		end(nil)
		if !timer.Stop() {
			<-ended
		}
	}
}

// candidates are the schedulers to try: the remembered one, if it is still
// there, then those that the hash names. Those that drain come behind those
// that take new tasks, and behind both those that were silent just now. first
// is the id that the hash alone would name.
func (r *Router) candidates(task string) (queue []cluster.Member, first string) {
	members := r.members.Schedulers()
	nodes := make([]ring.Node, len(members))
	byID := make(map[string]cluster.Member, len(members))
	for i, m := range members {
		nodes[i] = ring.Node{ID: m.ID}
		byID[m.ID] = m
	}
	queue = make([]cluster.Member, 0, len(nodes)+1+maxHops)
	for _, n := range ring.Order(task, nodes) {
		queue = append(queue, byID[n.ID])
	}
	if len(queue) == 0 {
		return nil, ""
	}
	first = queue[0].ID
	slices.SortStableFunc(queue, func(a, b cluster.Member) int { return r.rank(a) - r.rank(b) })
	queue = queue[:min(len(queue), maxCandidates)]
	if id, ok := r.owners.Get(task); ok {
		if m, there := byID[id]; there && !r.health.unresponsive(m.Endpoint) {
			queue = slices.Insert(queue, 0, m)
		}
	}
	return queue, first
}

func (r *Router) rank(m cluster.Member) int {
	switch {
	case r.health.unresponsive(m.Endpoint):
		return 2
	case m.Draining:
		return 1
	}
	return 0
}

// storeOwner keeps who answered. Nothing has to be kept of the one that the hash
// names first.
func (r *Router) storeOwner(task, id, first string) {
	if id != first {
		r.owners.Add(task, id)
	}
}

// ownerFrom reads from an error who owns the task instead.
func (r *Router) ownerFrom(err error) (cluster.Member, bool) {
	e := rpcerr.From(err)
	if e.Reason != rpcerr.NotOwner {
		return cluster.Member{}, false
	}
	m := cluster.Member{ID: e.Metadata["scheduler_id"], Endpoint: e.Metadata["endpoint"]}
	return m, m.ID != "" && m.Endpoint != ""
}

// recordFailure counts and tells, at a level that fits what may heal itself: the caller
// says so at another when it does not.
func (r *Router) recordFailure(task string, m cluster.Member, err error) {
	r.failures.WithLabelValues(rpcerr.From(err).Code.String()).Inc()
	r.log.Debug("scheduler gave an error",
		zap.String("task_id", task), zap.String("scheduler_id", m.ID), zap.Error(err))
}

// sleep tells whether there is anything left of ctx afterwards.
func sleep(ctx context.Context, d time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= d {
		return false
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
