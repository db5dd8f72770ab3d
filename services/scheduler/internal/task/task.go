// Package task runs one task: a goroutine that owns the task's swarm, applies
// reports, answers pulls, and holds the pulls for which there is no piece yet.
// Package follower feeds it with the pieces of the CDN copies; package
// taskmanager creates and ends tasks.
//
//	New --Facts--> serving --Whole--> complete
//	 |                |                  |
//	 +------Fail------+------Fail--------+--> failed
//
// A failed task answers every pull with the error, except for peers that have all
// pieces of a complete task. Run ends the task in every state.
//
// Invariants:
//
//   - Only the goroutine of Run accesses the state. Other goroutines send it
//     closures on a bounded channel.
//   - At most one pull of a peer is held. A newer one ends it.
//   - A held pull is tried again when something has changed that may serve it. The
//     swarm decides which one that is; pulls are not scanned.
//   - The offers of a pull that ends without an answer are revoked.
package task

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

const (
	// callQueueSize is the number of calls that are queued before callers block.
	callQueueSize = 256
	// tickInterval is the interval of ticks while pulls are held.
	tickInterval = 200 * time.Millisecond
	// idleTickInterval is the interval of ticks while transfers run and no pull is
	// held.
	idleTickInterval = 2 * time.Second
	// pullsInRow is how many pulls are tried before calls are processed again.
	pullsInRow = 64
)

// Deps holds the dependencies of a task.
type Deps struct {
	Log    *zap.Logger
	Limits swarm.Limits
	// MaxPeers is the number of peers from which on no other peer is added; 0 for no
	// bound. A restored task keeps all peers of its replicated state.
	MaxPeers int
	// Capacity is what CDN instances may send at the same time, over all tasks.
	Capacity *capacity.Shares
	Stats    *Stats
	// Changed is called when there are changes for Changes to return. It must not
	// block. It may be nil.
	Changed func(taskID string)
}

// Task is one task. Its methods are safe for concurrent use while Run runs.
type Task struct {
	// ID identifies the task. URL is that of its source, without credentials.
	ID  string
	URL string

	deps          Deps
	calls         chan func()
	ended         chan struct{}
	copySuspected chan struct{}
	// capacityFreed receives a signal when a CDN instance may have room again.
	capacityFreed <-chan struct{}
	// outdated holds the peers that have pieces of another version of the source.
	outdated map[string]struct{}
	// restored is set if another scheduler answered for the task before.
	restored bool

	// The goroutine of Run owns the fields below.
	swarm       *swarm.Swarm
	err         error
	failedAt    time.Time
	held        map[string]*pull // by peer
	abandoned   abandonedPulls
	factWaiters []chan struct{}
	lastUsed    time.Time
}

// New returns a task. The caller must call Run.
func New(id, url string, deps Deps) *Task {
	deps.Log = deps.Log.With(zap.String("task_id", id))
	shares := deps.Capacity.NewTask()
	random := rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	return &Task{
		ID: id, URL: url, deps: deps,
		calls: make(chan func(), callQueueSize), ended: make(chan struct{}),
		copySuspected: make(chan struct{}, 1),
		capacityFreed: shares.Wake(), swarm: swarm.New(deps.Limits, shares, random), lastUsed: time.Now(),
		held: make(map[string]*pull), abandoned: newAbandonedPulls(),
	}
}

// ExcludePeers makes the task refuse peers that have pieces of another version of
// the source: their files would mix both versions. It must be called before Run.
func (t *Task) ExcludePeers(peers map[string]struct{}) { t.outdated = peers }

// Restore initializes the task from the replicated state of another scheduler.
// The task then also adopts peers that this state does not contain. It must be
// called before Run.
func (t *Task) Restore(u swarm.Update) {
	t.swarm.Restore(u, time.Now())
	t.restored = true
	outdated := make(map[string]struct{}, len(u.Outdated))
	for _, id := range u.Outdated {
		outdated[id] = struct{}{}
	}
	t.ExcludePeers(outdated)
}

// Changes returns what has changed since the previous call, or the complete state
// if full is set. After the first call Deps.Changed is called at every change.
func (t *Task) Changes(ctx context.Context, full bool) (swarm.Update, error) {
	return query(ctx, t, func() (swarm.Update, error) {
		u := t.swarm.Changes(full)
		if u.Full {
			u.Outdated = slices.Collect(maps.Keys(t.outdated))
		}
		return u, nil
	})
}

// admit returns an error if the peer is excluded from the task.
func (t *Task) admit(peerID string) error {
	if _, old := t.outdated[peerID]; old {
		return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "the source has changed since the peer began")
	}
	return nil
}

// addPeer adds or updates a peer. It returns LIMIT_REACHED if the peer is unknown and
// the task has MaxPeers peers.
func (t *Task) addPeer(info swarm.PeerInfo, now time.Time) error {
	if limit := t.deps.MaxPeers; limit > 0 && t.swarm.Peers() >= limit && !t.swarm.HasPeer(info.ID) {
		return t.deps.Stats.refusePeer(limit)
	}
	t.swarm.AddPeer(info, now)
	return nil
}

// Run processes calls until ctx ends. Then it answers all held pulls with an error.
func (t *Task) Run(ctx context.Context) {
	defer close(t.ended)
	defer t.swarm.Close()
	timer := time.NewTimer(idleTickInterval)
	defer timer.Stop()
	lastTick := time.Now()
	late := false // more was due than one tick handled
	for {
		select {
		case <-ctx.Done():
			t.releaseHeld(rpcerr.New(codes.Unavailable, "", "the scheduler is stopping"))
			return
		case call := <-t.calls:
			call()
			t.drainCalls()
		case <-t.capacityFreed:
			t.swarm.CapacityFreed()
		case <-timer.C:
		}
		// Each call resets the timer, so it may never fire while calls keep arriving.
		now := time.Now()
		if late || now.Sub(lastTick) >= tickInterval {
			late = t.swarm.Tick(now)
			lastTick = now
		}
		t.notifyChanges()
		answerable := t.answerHeld(now)
		switch {
		case answerable || late:
			timer.Reset(0)
		case len(t.held) > 0:
			timer.Reset(tickInterval)
		case t.swarm.Busy():
			timer.Reset(idleTickInterval)
		default:
			timer.Stop()
		}
	}
}

func (t *Task) notifyChanges() {
	if t.deps.Changed != nil && t.swarm.Changed() {
		t.deps.Changed(t.ID)
	}
}

// drainCalls runs the calls that are already queued, so that the slots which many
// reports free are given to the pulls that wait for longest.
func (t *Task) drainCalls() {
	for range callQueueSize {
		select {
		case call := <-t.calls:
			call()
		default:
			return
		}
	}
}

// do runs f on the goroutine of Run and waits for it. f may still be running when
// do returns an error, so it must not write variables of the caller: use query for
// a result.
func (t *Task) do(ctx context.Context, f func() error) error {
	_, err := query(ctx, t, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// query runs f on the goroutine of Run and returns its result.
func query[T any](ctx context.Context, t *Task, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	result := make(chan outcome, 1)
	err := t.enqueue(ctx, func() {
		value, err := f()
		result <- outcome{value, err}
	})
	if err != nil {
		return none, err
	}
	select {
	case o := <-result:
		return o.value, o.err
	case <-t.ended:
		return none, errEnded
	case <-ctx.Done():
		return none, ctx.Err()
	}
}

// enqueue has a call run on the goroutine of Run, after those that are queued.
func (t *Task) enqueue(ctx context.Context, call func()) error {
	select {
	case t.calls <- call: // the queue is rarely full, and a choice among three channels costs more
		return nil
	default:
	}
	select {
	case t.calls <- call:
		return nil
	case <-t.ended:
		return errEnded
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errEnded = rpcerr.New(codes.Unavailable, "", "the task has ended on this scheduler")

// rpcError converts an error of the swarm to a gRPC error. It must be called on
// the goroutine of Run.
func (t *Task) rpcError(err error) error {
	_, known := t.swarm.Facts()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, swarm.ErrNoPeer) && !known && t.err == nil:
		// Another scheduler may turn out to own the task and to have the peer.
		return rpcerr.New(codes.Unavailable, "", "the task's facts are not known yet: %v", err)
	case errors.Is(err, swarm.ErrNoPeer):
		return rpcerr.New(codes.NotFound, rpcerr.PeerNotFound, "%v", err)
	case errors.Is(err, swarm.ErrNoPiece):
		return rpcerr.Invalid("%v", err)
	case errors.Is(err, swarm.ErrNotYet):
		// The piece is offered once it has landed, and a client that has it
		// reports it again then. An error would make the client leave.
		return nil
	}
	return err
}

// Register adds a peer and waits until the facts of the source are known. It returns
// LIMIT_REACHED at once if the peer is new and the task is full.
func (t *Task) Register(ctx context.Context, info swarm.PeerInfo) (swarm.Facts, error) {
	known := make(chan struct{})
	err := t.do(ctx, func() error {
		t.markUsed()
		if err := t.admit(info.ID); err != nil {
			return err
		}
		if t.err != nil {
			return t.err
		}
		if err := t.addPeer(info, time.Now()); err != nil {
			return err
		}
		t.factWaiters = append(t.factWaiters, known)
		t.notifyFacts()
		return nil
	})
	if err != nil {
		return swarm.Facts{}, err
	}
	select {
	case <-known:
	case <-t.ended:
		return swarm.Facts{}, errEnded
	case <-ctx.Done():
		return swarm.Facts{}, fmt.Errorf("waiting for the source to answer: %w", ctx.Err())
	}
	return query(ctx, t, func() (swarm.Facts, error) {
		facts, _ := t.swarm.Facts()
		return facts, t.err
	})
}

func (t *Task) notifyFacts() {
	if _, known := t.swarm.Facts(); !known && t.err == nil {
		return
	}
	for _, c := range t.factWaiters {
		close(c)
	}
	t.factWaiters = nil
}

func (t *Task) markUsed() { t.lastUsed = time.Now() }

// CopySuspected returns a channel that receives a value when a client could not
// download from a CDN copy.
func (t *Task) CopySuspected() <-chan struct{} { return t.copySuspected }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
