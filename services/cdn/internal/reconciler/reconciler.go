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

// Engine owns, copies and keeps tasks as it is told.
type Engine interface {
	// Assign says how this instance stands to a task. It must not wait.
	Assign(id task.ID, s task.Standing)
	// Release says that no record names this instance for a task.
	Release(id task.ID)
	// Discard removes what is on disk of a task.
	Discard(ctx context.Context, id task.ID) error
	// Inventory is everything on disk.
	Inventory(ctx context.Context) ([]task.Inventory, error)
}

// Options are what a reconciler may be told; zero means the default.
type Options struct {
	// ReplaceDelay is how long a replica may be gone before another is made.
	// The default is 5 s, so that a restart costs no copy.
	ReplaceDelay time.Duration
	// RetryDelay is waited before the registry is asked again; it doubles. The
	// default is 250 ms.
	RetryDelay time.Duration
}

// Deps is what a reconciler works with.
type Deps struct {
	Logger   *zap.Logger
	Registry registryv1.RegistryServiceClient
	Members  *cluster.View
	// Dial reaches the gRPC server of another CDN.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
}

// Reconciler keeps this instance's part of the records that name it.
//
//	New --Run--> running --Handover--> leaving --Run's ctx ends--> ended
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
	ended       chan struct{} // closed when Run is over
}

// New makes the reconciler of the CDN member id.
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

// Lost is told by the engine that it cannot keep a copy of the task: this
// instance resigns from it. It does not wait.
func (r *Reconciler) Lost(id task.ID, err error) {
	r.log.Warn("giving up a task", zap.String("task_id", string(id)), zap.Error(err))
	if !r.inbox.addLost(id) {
		r.log.Error("too many tasks to give up at once; the records go on naming this instance", zap.String("task_id", string(id)))
	}
}

// Stale is told that the record of a task is another one than this instance
// knows: it is asked for and given to the engine. It does not wait.
func (r *Reconciler) Stale(id task.ID) {
	if !r.inbox.addStale(id) {
		r.log.Warn("too many stale tasks at once; waiting for the registry to tell", zap.String("task_id", string(id)))
	}
}

// Run keeps the records until ctx ends. It is called once.
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

// send has f done by the goroutine that owns the state.
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

// query is send, and what f gives.
func query[T any](ctx context.Context, r *Reconciler, f func(*state) T) (T, error) {
	answer := make(chan T, 1)
	var nothing T
	if err := r.send(ctx, func(s *state) { answer <- f(s) }); err != nil {
		return nothing, err
	}
	// What was taken is done: the loop does not end between.
	return <-answer, nil
}
