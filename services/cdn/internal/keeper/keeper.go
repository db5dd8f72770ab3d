package keeper

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

// Options are what a keeper may be told; zero means the default.
type Options struct {
	// ReplaceDelay is how long a replica may be gone before another is made.
	// The default is 5 s, so that a restart costs no copy.
	ReplaceDelay time.Duration
	// RetryDelay is waited before the registry is asked again; it doubles. The
	// default is 250 ms.
	RetryDelay time.Duration
}

// Deps is what a keeper works with.
type Deps struct {
	Logger   *zap.Logger
	Registry registryv1.RegistryServiceClient
	Members  *cluster.View
	// Dial reaches the gRPC server of another CDN.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
}

// Keeper keeps this instance's part of the records that name it.
//
//	New --Run--> running --Handover--> leaving --Run's ctx ends--> ended
type Keeper struct {
	log      *zap.Logger
	registry registryv1.RegistryServiceClient
	members  *cluster.View
	dial     func(string) (grpc.ClientConnInterface, error)
	id       string
	options  Options
	metrics  metrics

	mail     chan func(*desk)
	announce chan struct{}
	notes    *notes
	ended    chan struct{} // closed when Run is over
}

// New makes the keeper of the CDN member id.
func New(id string, options Options, deps Deps) *Keeper {
	if options.ReplaceDelay == 0 {
		options.ReplaceDelay = 5 * time.Second
	}
	if options.RetryDelay == 0 {
		options.RetryDelay = 250 * time.Millisecond
	}
	return &Keeper{
		log: deps.Logger, registry: deps.Registry, members: deps.Members, dial: deps.Dial,
		id: id, options: options, metrics: newMetrics(),
		mail: make(chan func(*desk)), announce: make(chan struct{}, 1), notes: newNotes(), ended: make(chan struct{}),
	}
}

// Lost is told by the engine that it cannot keep a copy of the task: this
// instance resigns from it. It does not wait.
func (k *Keeper) Lost(id task.ID, err error) {
	k.log.Warn("giving up a task", zap.String("task_id", string(id)), zap.Error(err))
	if !k.notes.noteLost(id) {
		k.log.Error("too many tasks to give up at once; the records go on naming this instance", zap.String("task_id", string(id)))
	}
}

// Stale is told that the record of a task is another one than this instance
// knows: it is asked for and given to the engine. It does not wait.
func (k *Keeper) Stale(id task.ID) {
	if !k.notes.noteStale(id) {
		k.log.Warn("too many stale tasks at once; waiting for the registry to tell", zap.String("task_id", string(id)))
	}
}

// Run keeps the records until ctx ends. It is called once.
func (k *Keeper) Run(ctx context.Context, engine Engine) {
	defer close(k.ended)
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	d := &desk{
		k: k, engine: engine, ctx: ctx, calls: &work,
		book: newBook(), crowd: newCrowd(k.id), jobs: make(map[task.ID]*job), handover: newHandover(),
	}
	work.Go(func() { k.watch(ctx) })
	work.Go(func() { k.announceCopies(ctx, engine) })
	changed := k.members.Changed()
	d.meet(k.members.Members(cluster.CDN), time.Now())
	for ctx.Err() == nil {
		d.proceed(time.Now())
		k.metrics.show(d)
		var timer <-chan time.Time
		if at, ok := d.next(); ok {
			timer = time.After(time.Until(at))
		}
		select {
		case <-ctx.Done():
		case f := <-k.mail:
			f(d)
		case <-changed:
			changed = k.members.Changed()
			d.meet(k.members.Members(cluster.CDN), time.Now())
		case <-k.notes.wake:
			d.hear(time.Now())
		case <-timer:
		}
	}
}

var errEnded = errors.New("the keeper has ended")

// send has f done by the goroutine that owns the desk.
func (k *Keeper) send(ctx context.Context, f func(*desk)) error {
	select {
	case k.mail <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-k.ended:
		return errEnded
	}
}

// ask is send, and what f gives.
func ask[T any](ctx context.Context, k *Keeper, f func(*desk) T) (T, error) {
	answer := make(chan T, 1)
	var nothing T
	if err := k.send(ctx, func(d *desk) { answer <- f(d) }); err != nil {
		return nothing, err
	}
	// What was taken is done: the loop does not end between.
	return <-answer, nil
}
