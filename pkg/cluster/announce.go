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
	// callTimeout bounds one heartbeat, joinTimeout one of a member that is not
	// known, after some in vain: joining takes several writes, and there is no
	// lease that could end meanwhile.
	callTimeout = time.Second
	joinTimeout = 4 * time.Second
	// retryAfter is the pause behind a heartbeat that failed.
	retryAfter = 250 * time.Millisecond
	// leaveTimeout bounds the farewell.
	leaveTimeout = time.Second
	// patience is how long nothing is said of a registry that is not there yet:
	// processes may start in any order.
	patience = 5 * time.Second
)

// Announcer keeps one member in the cluster.
//
//	New --Run--> announced --Drain--> draining --Run's ctx ends--> left
type Announcer struct {
	registry registryv1.RegistryServiceClient
	member   Member
	log      *zap.Logger

	drain sync.Once
	// draining is closed when the member is to be announced as DRAINING, taken
	// when the registry has heard of it.
	draining, taken chan struct{}
}

// NewAnnouncer makes an announcer that says nothing until Run.
func NewAnnouncer(registry registryv1.RegistryServiceClient, m Member, log *zap.Logger) *Announcer {
	return &Announcer{
		registry: registry, member: m,
		log:      log.With(zap.Stringer("role", m.Role), zap.String("member_id", m.ID)),
		draining: make(chan struct{}), taken: make(chan struct{}),
	}
}

// Run keeps the member's lease alive until ctx ends, then leaves. A registry
// that cannot be reached is tried again for ever: nothing steps down because
// nobody listens.
func (a *Announcer) Run(ctx context.Context) error {
	state := beats{Announcer: a, since: time.Now(), limit: callTimeout, drain: a.draining}
	for ctx.Err() == nil {
		pause := state.next(ctx)
		select {
		case <-ctx.Done():
		case <-state.drain:
		case <-time.After(pause):
		}
	}
	return a.leave(context.WithoutCancel(ctx))
}

// Drain announces the member as DRAINING, at once and from now on, while Run
// runs. It returns when the registry has taken that, or the error of ctx.
func (a *Announcer) Drain(ctx context.Context) error {
	a.drain.Do(func() { close(a.draining) })
	select {
	case <-a.taken:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("telling the registry of the drain: %w", ctx.Err())
	}
}

// Leaving is a part of a process that does nothing until it is told to stop.
// Then the announcers' members take nothing new any more, and handOver gives
// away what is theirs, all within limit. Added behind the parts that it is about
// it is stopped before them: they go on serving meanwhile.
func Leaving(limit time.Duration, log *zap.Logger, handOver func(context.Context) error, announcers ...*Announcer) func(context.Context) error {
	return func(ctx context.Context) error {
		<-ctx.Done()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
		defer cancel()
		drainAll(ctx, limit/4, log, announcers)
		if err := handOver(ctx); err != nil {
			log.Warn("leaving although not everything is handed over", zap.Error(err))
		}
		return nil
	}
}

// drainAll is given up after limit: a registry that is away hears nothing, and
// sees the members leave in the end.
func drainAll(ctx context.Context, limit time.Duration, log *zap.Logger, announcers []*Announcer) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var all sync.WaitGroup
	for _, a := range announcers {
		all.Go(func() {
			if err := a.Drain(ctx); err != nil {
				log.Warn("the registry does not know that this member is about to leave", zap.Error(err))
			}
		})
	}
	all.Wait()
}

// beats is what Run knows between two heartbeats.
type beats struct {
	*Announcer
	known, warned, marked bool
	since                 time.Time
	limit                 time.Duration
	// drain is draining until a heartbeat tells of it, then nil.
	drain chan struct{}
}

// next sends a heartbeat and says when the one after it is due.
func (b *beats) next(ctx context.Context) time.Duration {
	m := b.member
	select {
	case <-b.draining:
		m.Draining, b.drain = true, nil
	default:
	}
	ttl, mark, err := b.beat(ctx, m)
	if err != nil {
		if ctx.Err() == nil {
			b.missed(err)
		}
		return retryAfter
	}
	if m.Draining {
		b.told()
	}
	if mark != b.marked {
		b.log.Info("an operator has changed the mark of this member", zap.Bool("drain", mark))
	}
	if !b.known {
		b.log.Info("joined the cluster")
	}
	b.known, b.warned, b.marked = true, false, mark
	pause := ttl / 3
	// A registry that hangs is found out while there is time to ask another:
	// the lease goes on for two thirds when this is asked next.
	b.limit = min(callTimeout, pause)
	return pause
}

func (b *beats) missed(err error) {
	if !b.warned && (b.known || time.Since(b.since) >= patience) {
		b.log.Warn("the registry does not take the heartbeat; trying on", zap.Error(err))
		b.warned = true
	}
	// Who may have to join anew gets the time for it.
	if b.known {
		b.known, b.limit = false, callTimeout
		return
	}
	b.limit = min(2*b.limit, joinTimeout)
}

// told is called by Run alone.
func (a *Announcer) told() {
	select {
	case <-a.taken:
	default:
		a.log.Info("draining")
		close(a.taken)
	}
}

// beat is not cut short by a drain: a heartbeat that says READY might come
// after the one that says DRAINING.
func (b *beats) beat(ctx context.Context, m Member) (ttl time.Duration, mark bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, b.limit)
	defer cancel()
	resp, err := b.registry.Heartbeat(ctx, &registryv1.HeartbeatRequest{Member: m.proto()})
	if err != nil {
		return 0, false, fmt.Errorf("heartbeat: %w", err)
	}
	return max(resp.GetTtl().AsDuration(), 3*retryAfter), resp.GetDrain(), nil
}

// leave is best effort: the lease ends by itself.
func (a *Announcer) leave(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTimeout)
	defer cancel()
	if _, err := a.registry.Leave(ctx, &registryv1.LeaveRequest{Role: a.member.Role, Id: a.member.ID}); err != nil {
		a.log.Warn("could not say good-bye; the lease will end by itself", zap.Error(err))
		return nil
	}
	a.log.Info("left the cluster")
	return nil
}
