package cluster

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
)

const (
	// callTimeout limits a heartbeat. For a member that has not joined, the limit
	// doubles with each failure up to joinTimeout: joining takes the registry several
	// writes, and there is no lease that could expire in the meantime.
	callTimeout = time.Second
	joinTimeout = 4 * time.Second
	// retryDelay is the pause after a heartbeat that failed.
	retryDelay = 250 * time.Millisecond
	// leaveTimeout limits the call that removes the member.
	leaveTimeout = time.Second
	// startupTime is the time after the start in which failed heartbeats are not
	// logged: processes start in any order, and the registry may not run yet.
	startupTime = 5 * time.Second
)

// Announcer keeps one member registered.
//
//	new --Run--> ready --Drain--> draining --context of Run ends--> left
//	               └------------------------context of Run ends----> left
type Announcer struct {
	registry registryv1.RegistryServiceClient
	member   Member
	log      *zap.Logger

	drain sync.Once
	// draining is closed by Drain: from then on heartbeats say DRAINING.
	draining chan struct{}
	// acknowledged is closed when the registry has accepted such a heartbeat.
	acknowledged chan struct{}
}

// NewAnnouncer returns an announcer. It sends nothing before Run.
func NewAnnouncer(registry registryv1.RegistryServiceClient, m Member, log *zap.Logger) *Announcer {
	return &Announcer{
		registry: registry, member: m,
		log:      log.With(zap.Stringer("role", m.Role), zap.String("member_id", m.ID)),
		draining: make(chan struct{}), acknowledged: make(chan struct{}),
	}
}

// Run sends heartbeats, which keep the member's lease alive, until ctx ends. Then it
// removes the member. It repeats failed heartbeats without end: a member continues its
// work if no registry is available.
func (a *Announcer) Run(ctx context.Context) error {
	h := heartbeats{Announcer: a, started: time.Now(), timeout: callTimeout, drain: a.draining}
	for ctx.Err() == nil {
		pause := h.next(ctx)
		select {
		case <-ctx.Done():
		case <-h.drain:
		case <-time.After(pause):
		}
	}
	return a.leave(context.WithoutCancel(ctx))
}

// Drain makes Run send a heartbeat that says DRAINING at once, and only such ones from
// then on. It returns when the registry has accepted the first one, or when ctx ends.
func (a *Announcer) Drain(ctx context.Context) error {
	a.drain.Do(func() { close(a.draining) })
	select {
	case <-a.acknowledged:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting until the registry has accepted the drain: %w", ctx.Err())
	}
}

// Leaving returns a part of a process that prepares its stop. The part waits until its
// context ends. Then it drains the announcers, so that their members get no new work,
// and calls handOver, which moves their tasks to other members. Both together take
// limit at most. If it is added to a group after the parts that serve, it stops before
// them, so that they still serve while it runs.
func Leaving(limit time.Duration, log *zap.Logger, handOver func(context.Context) error, announcers ...*Announcer) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		drainAll(ctx, limit/4, log, announcers)
		if err := handOver(ctx); err != nil {
			log.Warn("not all tasks are handed over; leaving the cluster anyway", zap.Error(err))
		}
		return nil
	}
}

// drainAll drains all announcers. It gives up after limit: if the registry is
// unavailable, the members leave without being announced as draining.
func drainAll(ctx context.Context, limit time.Duration, log *zap.Logger, announcers []*Announcer) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range announcers {
		all.Go(func() {
			if err := a.Drain(ctx); err != nil {
				log.Warn("the registry has not accepted the drain; leaving the cluster without it", zap.Error(err))
			}
		})
	}
	all.Wait()
}

// heartbeats holds the state of Run. Only the goroutine of Run uses it.
type heartbeats struct {
	*Announcer
	joined    bool // the last heartbeat succeeded
	warned    bool // a failure has been logged since the last success
	drainMark bool // the registry's answer: an operator has marked the member for draining
	started   time.Time
	timeout   time.Duration // of the next heartbeat
	drain     chan struct{} // draining, or nil once a heartbeat has said DRAINING
}

// next sends a heartbeat. It returns the pause before the next one.
func (h *heartbeats) next(ctx context.Context) time.Duration {
	m := h.member
	select {
	case <-h.draining:
		m.Draining, h.drain = true, nil
	default:
	}
	ttl, drainMark, err := h.send(ctx, m)
	if err != nil {
		if ctx.Err() == nil {
			h.failed(err)
		}
		return retryDelay
	}
	if m.Draining {
		h.acknowledge()
	}
	if drainMark != h.drainMark {
		h.log.Info("an operator has changed the drain mark of this member", zap.Bool("drain", drainMark))
	}
	if !h.joined {
		h.log.Info("joined the cluster")
	}
	h.joined, h.warned, h.drainMark = true, false, drainMark
	pause := ttl / 3
	// If the next heartbeat times out because a registry hangs, a third of the lease
	// is left to ask another one.
	h.timeout = min(callTimeout, pause)
	return pause
}

// failed handles a heartbeat that failed.
func (h *heartbeats) failed(err error) {
	if !h.warned && (h.joined || time.Since(h.started) >= startupTime) {
		h.log.Warn("the registry did not accept the heartbeat; trying again", zap.Error(err))
		h.warned = true
	}
	// The lease may have expired. If so, the next heartbeat has to join again.
	if h.joined {
		h.joined, h.timeout = false, callTimeout
		return
	}
	h.timeout = min(2*h.timeout, joinTimeout)
}

// acknowledge records that the registry has accepted a heartbeat that said DRAINING.
// Only the goroutine of Run calls it.
func (a *Announcer) acknowledge() {
	select {
	case <-a.acknowledged:
	default:
		a.log.Info("draining")
		close(a.acknowledged)
	}
}

// send sends a heartbeat. Drain does not cancel it: if a canceled heartbeat said READY,
// the registry could process it after the next one, which says DRAINING.
func (h *heartbeats) send(ctx context.Context, m Member) (ttl time.Duration, drainMark bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	resp, err := h.registry.Heartbeat(ctx, &registryv1.HeartbeatRequest{Member: m.proto()})
	if err != nil {
		return 0, false, fmt.Errorf("heartbeat: %w", err)
	}
	return max(resp.GetTtl().AsDuration(), 3*retryDelay), resp.GetDrain(), nil
}

// leave removes the member. If that fails, the lease of the member expires.
func (a *Announcer) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if _, err := a.registry.Leave(ctx, &registryv1.LeaveRequest{Role: a.member.Role, Id: a.member.ID}); err != nil {
		a.log.Warn("cannot remove this member from the cluster; its lease will expire", zap.Error(err))
		return nil
	}
	a.log.Info("left the cluster")
	return nil
}
