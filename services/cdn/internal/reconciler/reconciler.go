package reconciler

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// Engine holds the tasks of this instance.
type Engine interface {
	// Assign sets the standing of this instance to a task. It must not block.
	Assign(id task.ID, s task.Standing)
	// Release removes the standing. It must not block.
	Release(id task.ID)
	// Discard removes the local copy of a task, unless it is needed.
	Discard(ctx context.Context, id task.ID) error
	// Inventory returns all copies on disk.
	Inventory(ctx context.Context) ([]task.Inventory, error)
}

// Options holds the intervals of a reconciler. A zero value means the default.
type Options struct {
	// ReplaceDelay is how long the CDN of a replica may be missing before the replica
	// is replaced. The default is 5 s, so that a restart causes no copy.
	ReplaceDelay time.Duration
	// RetryDelay is the time before the second call about a task. It doubles with each
	// further call. The default is 250 ms.
	RetryDelay time.Duration
}

// Deps holds the dependencies of a reconciler.
type Deps struct {
	Logger   *zap.Logger
	Registry registryv1.RegistryServiceClient
	Members  *cluster.View
	// Dial returns a connection to the gRPC server of another CDN.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
}

// Reconciler reconciles the tasks of one CDN instance. It is safe for concurrent use.
//
//	New --Run--> running --Handover--> handing over --ctx of Run ends--> ended
type Reconciler struct {
	log      *zap.Logger
	registry registryv1.RegistryServiceClient
	members  *cluster.View
	dial     func(string) (grpc.ClientConnInterface, error)
	id       string
	options  Options
	metrics  metrics

	commands    chan func(*state)
	announceNow chan struct{}
	inbox       *inbox
	ended       chan struct{} // closed when Run has ended
}

// New returns the reconciler of the CDN member id.
func New(id string, options Options, deps Deps) *Reconciler {
	if options.ReplaceDelay == 0 {
		options.ReplaceDelay = 5 * time.Second
	}
	if options.RetryDelay == 0 {
		options.RetryDelay = 250 * time.Millisecond
	}
	return &Reconciler{
		log: deps.Logger, registry: deps.Registry, members: deps.Members, dial: deps.Dial,
		id: id, options: options, metrics: newMetrics(),
		commands: make(chan func(*state)), announceNow: make(chan struct{}, 1), inbox: newInbox(), ended: make(chan struct{}),
	}
}

// Lost makes this instance resign from a task, because it cannot keep a copy. It does
// not block.
func (r *Reconciler) Lost(id task.ID, err error) {
	r.log.Warn("cannot keep a copy of the task; resigning from it", zap.String("task_id", string(id)), zap.Error(err))
	if !r.inbox.addLost(id) {
		r.log.Error("cannot resign from the task, too many resignations are pending; its record still names this CDN",
			zap.String("task_id", string(id)))
	}
}

// Stale makes the reconciler read the record of a task, because the known one is
// outdated, and pass it to the engine. It does not block.
func (r *Reconciler) Stale(id task.ID) {
	if !r.inbox.addStale(id) {
		r.log.Warn("cannot read an outdated record, too many reads are pending; waiting for the watched stream",
			zap.String("task_id", string(id)))
	}
}

// Run reconciles the tasks of engine until ctx ends, and waits for its goroutines. It
// must be called once.
func (r *Reconciler) Run(ctx context.Context, engine Engine) {
	defer close(r.ended)
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	s := &state{
		r: r, engine: engine, ctx: ctx, background: &work,
		index: newIndex(), members: newMembers(r.id), jobs: make(map[task.ID]*job), handover: newHandover(),
	}
	work.Go(func() { r.watchRecords(ctx) })
	work.Go(func() { r.announceCopies(ctx, engine) })
	changed := r.members.Changed()
	s.updateMembers(r.members.Members(cluster.CDN), time.Now())
	for ctx.Err() == nil {
		s.runDue(time.Now())
		r.metrics.show(s)
		var timer <-chan time.Time
		if at, ok := s.nextDue(); ok {
			timer = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
		case f := <-r.commands:
			f(s)
		case <-changed:
			changed = r.members.Changed()
			s.updateMembers(r.members.Members(cluster.CDN), time.Now())
		case <-r.inbox.wake:
			s.drainInbox(time.Now())
		case <-timer:
		}
	}
}

var errEnded = errors.New("the reconciler has ended")

// send has the goroutine that owns the state run f. It returns when that goroutine has
// accepted f, or with an error if ctx or Run ends before.
func (r *Reconciler) send(ctx context.Context, f func(*state)) error {
	select {
	case r.commands <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ended:
		return errEnded
	}
}

// query has the goroutine that owns the state run f, and returns the result of f.
func query[T any](ctx context.Context, r *Reconciler, f func(*state) T) (T, error) {
	answer := make(chan T, 1)
	var nothing T
	if err := r.send(ctx, func(s *state) { answer <- f(s) }); err != nil {
		return nothing, err
	}
	// The goroutine of Run always runs a function that it has accepted.
	return <-answer, nil
}
