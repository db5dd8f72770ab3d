// Package route finds the scheduler of a task and calls it.
//
// The rendezvous hash of the task is only a hint at its scheduler. A scheduler
// that does not own the task answers with the owner; the router calls the owner
// and caches it. If a scheduler fails or is unresponsive, the router calls the
// next one in the order of the hash.
//
// The package does not interpret what is called, and does not decide what the
// client is answered.
package route

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
)

const (
	// maxOwners limits the cache of owners. Only owners that are not the first
	// in the order of the hash are cached.
	maxOwners = 100_000
	// maxHops limits the number of NOT_OWNER answers that one round follows.
	maxHops = 3
	// maxCandidates limits the schedulers that one round calls without a hint
	// from a NOT_OWNER answer. It is unlikely that more of them die within the
	// time of one lease.
	maxCandidates = 4
	// The pause between rounds is firstPause at first and doubles up to lastPause.
	firstPause, lastPause = 25 * time.Millisecond, 400 * time.Millisecond
)

// Members lists the members of the cluster.
type Members interface {
	// Schedulers returns the schedulers as last seen. It is called for each call
	// and each retry, so it must be cheap. The router does not modify the result.
	Schedulers() []cluster.Member
}

// Dial returns the connection to an endpoint. The router does not close it.
type Dial func(endpoint string) (grpc.ClientConnInterface, error)

// Call calls one scheduler. The router runs it once for each attempt. It must
// return when ctx ends.
type Call func(ctx context.Context, conn grpc.ClientConnInterface) error

// Plan holds the limits of the attempts within the deadline of the context.
type Plan struct {
	// AttemptTimeout limits an attempt at a scheduler that answers health checks.
	// An attempt at an unresponsive one ends after 1 s; the scheduler may still
	// have executed the call.
	AttemptTimeout time.Duration
	// RetryFor is how long further rounds are made while the error is retryable;
	// 0 makes one round.
	RetryFor time.Duration
}

// Router calls the schedulers of tasks. It is safe for concurrent use.
type Router struct {
	members  Members
	dial     Dial
	log      *zap.Logger
	failures *prometheus.CounterVec
	owners   *lru.Cache[string, string] // from a task id to the id of its scheduler
	health   healthChecker
	// schedulers are those that current returned last.
	schedulers atomic.Pointer[schedulers]
}

// New creates a router with an empty cache of owners and registers its metrics.
func New(members Members, dial Dial, log *zap.Logger, metrics prometheus.Registerer) (*Router, error) {
	owners, err := lru.New[string, string](maxOwners)
	if err != nil {
		return nil, fmt.Errorf("creating the cache of owners: %w", err)
	}
	endpoints, err := lru.New[string, *endpointHealth](maxEndpoints)
	if err != nil {
		return nil, fmt.Errorf("creating the cache of health checks: %w", err)
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

// Do calls the scheduler of a task, in rounds as plan allows. ctx must have a
// deadline. Do returns the error of the last scheduler that it called.
func (r *Router) Do(ctx context.Context, task string, plan Plan, call Call) error {
	until := time.Now().Add(plan.RetryFor)
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := r.round(ctx, task, plan, call)
		if err == nil || time.Until(until) < pause || !errmap.Retryable(err) || !sleep(ctx, pause) {
			return err
		}
	}
}

// round calls one scheduler after the other until one succeeds, or fails with an
// error that no other scheduler can help with.
func (r *Router) round(ctx context.Context, task string, plan Plan, call Call) error {
	s := r.current()
	if len(s.members) == 0 {
		return noScheduler()
	}
	first, hashed, ok := r.first(task, s)
	queue := []cluster.Member{first}
	if !ok {
		queue = r.candidates(task, s)
	}
	hops, complete := 0, !ok // complete: queue has all candidates
	tried := make([]string, 0, maxHops+maxCandidates+1)
	var last error
	for i := 0; ; i++ {
		if i == len(queue) && !complete {
			complete = true
			queue = append(queue, r.candidates(task, s)...)
		}
		if i == len(queue) {
			return last
		}
		m := queue[i]
		if slices.Contains(tried, m.ID) {
			continue
		}
		tried = append(tried, m.ID)
		err := r.attempt(ctx, m, plan.AttemptTimeout, call)
		if err == nil {
			r.storeOwner(task, m.ID, hashed)
			return nil
		}
		r.recordFailure(task, m, err)
		// NO_CDN comes from the owner. If another scheduler reaches a CDN, the owner
		// moves the task to it and then answers NOT_OWNER (docs/adr/0008). Until
		// then the others would only answer with the owner, so the round ends here.
		if ctx.Err() != nil || !errmap.Retryable(err) || rpcerr.ReasonOf(err) == rpcerr.NoCDN {
			return err
		}
		if owner, ok := r.ownerFrom(err); ok && hops < maxHops && !slices.Contains(tried, owner.ID) {
			hops++
			r.owners.Add(task, owner.ID)
			queue = slices.Insert(queue, i+1, owner)
		} else if id, ok := r.owners.Peek(task); ok && id == m.ID {
			r.owners.Remove(task)
		}
		last = err
	}
}

// attempt calls one scheduler. It ends the call after limit, or when the
// scheduler turns out to be unresponsive.
func (r *Router) attempt(ctx context.Context, m cluster.Member, limit time.Duration, call Call) error {
	conn, err := r.dial(m.Endpoint)
	if err != nil {
		return rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "reaching scheduler %s: %v", m.ID, err)
	}
	ctx, end := context.WithCancelCause(ctx)
	defer r.watch(ctx, end, limit, m.Endpoint, conn)()
	if err := call(ctx, conn); err != nil {
		switch cause := context.Cause(ctx); {
		case errors.Is(cause, errUnresponsive):
			return rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "asking scheduler %s: %v", m.ID, cause)
		case errors.Is(cause, errTooLate):
			return rpcerr.New(codes.DeadlineExceeded, "", "asking scheduler %s: %v", m.ID, cause)
		}
		return rpcerr.From(err) // has the scheduler's text without the prefix that gRPC adds
	}
	return nil
}

// errTooLate is the cause of a call's end after its time is over.
var errTooLate = errors.New("no answer in time")

// watch calls end with errTooLate after limit, and with errUnresponsive when the
// scheduler at endpoint turns out to be unresponsive before. Health checks start
// only after checkInterval, which most calls do not take: until then a call costs
// nothing but a timer. The returned function stops the watch and waits until it has
// stopped.
func (r *Router) watch(
	ctx context.Context, end context.CancelCauseFunc, limit time.Duration, endpoint string, conn grpc.ClientConnInterface,
) func() {
	ended := make(chan struct{})
	begins := min(checkInterval, limit)
	timer := time.AfterFunc(begins, func() {
		defer close(ended)
		limited, cancel := context.WithTimeoutCause(ctx, limit-begins, errTooLate)
		defer cancel()
		if err := r.health.watch(limited, endpoint, conn); err != nil {
			end(err)
			return
		}
		end(context.Cause(limited))
	})
	return func() {
		end(nil)
		if !timer.Stop() {
			<-ended
		}
	}
}

// storeOwner caches the scheduler that answered a call for task. The first in the
// order of the hash is called first without the cache, so it is not stored.
func (r *Router) storeOwner(task, id, first string) {
	if id != first {
		r.owners.Add(task, id)
	}
}

// ownerFrom returns the owner that a NOT_OWNER error names.
func (r *Router) ownerFrom(err error) (cluster.Member, bool) {
	e := rpcerr.From(err)
	if e.Reason != rpcerr.NotOwner {
		return cluster.Member{}, false
	}
	m := cluster.Member{ID: e.Metadata["scheduler_id"], Endpoint: e.Metadata["endpoint"]}
	return m, m.ID != "" && m.Endpoint != ""
}

// recordFailure counts and logs a failed attempt. The level is Debug, because
// another attempt may succeed. If none does, the caller logs the final error.
func (r *Router) recordFailure(task string, m cluster.Member, err error) {
	r.failures.WithLabelValues(rpcerr.From(err).Code.String()).Inc()
	r.log.Debug("call to scheduler failed",
		zap.String("task_id", task), zap.String("scheduler_id", m.ID), zap.Error(err))
}

// noScheduler returns the error of a call that finds no member to call.
func noScheduler() error {
	return rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "there is no scheduler")
}

// sleep waits for d. It returns false if ctx ends before, and returns at once if
// the deadline of ctx leaves no time after d.
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
