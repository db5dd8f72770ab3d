// Package task runs one task: a goroutine that owns its swarm, takes reports,
// answers pulls, and holds those that it has nothing for. Where pieces come to
// the CDN from is the seed package's business, which tasks there are the
// table's.
//
//	New --facts--> serving --result--> whole
//	 |                |                 |
//	 +-------------- Fail -------------+--> failed (every pull is told why)
package task

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/budget"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

const (
	// callQueueSize is how many calls wait for the loop before callers do.
	callQueueSize = 256
	// tickInterval is how often time is looked at while pulls are held.
	tickInterval = 200 * time.Millisecond
	// idleTickInterval is the same while pieces are under way and nobody waits.
	idleTickInterval = 2 * time.Second
	// slowScan is how long a look at the held pulls may take before as much time
	// is left for everything else: a thousand of them cannot be looked at
	// after each call.
	slowScan = time.Millisecond
)

// Deps are what a task needs.
type Deps struct {
	Log    *zap.Logger
	Limits swarm.Limits
	Budget *budget.Budget
	Stats  *Stats
	// Changed is called by the loop when there is something for Memory to tell.
	// It must not wait. It may be nil.
	Changed func(taskID string)
}

// Task is one task. Its methods may be called from any goroutine while Run runs.
type Task struct {
	// ID names the task, URL its source without credentials.
	ID  string
	URL string

	deps          Deps
	calls         chan func()
	ended         chan struct{}
	copySuspected chan struct{}
	// outdated are peers that have pieces of another version of the source.
	outdated map[string]struct{}
	// restored says that another scheduler had the task before.
	restored bool

	// The rest belongs to the loop.
	swarm       *swarm.Swarm
	err         error
	failedAt    time.Time
	held        []*pull
	abandoned   []*pull // whose askers went before the answer
	factWaiters []chan struct{}
	lastUsed    time.Time
}

// New makes a task; Run must follow.
func New(id, url string, deps Deps) *Task {
	deps.Log = deps.Log.With(zap.String("task_id", id))
	return &Task{
		ID: id, URL: url, deps: deps,
		calls: make(chan func(), callQueueSize), ended: make(chan struct{}),
		copySuspected: make(chan struct{}, 1),
		swarm:         swarm.New(deps.Limits, deps.Budget), lastUsed: time.Now(),
	}
}

// ExcludePeers bars peers that have pieces of another version of the source: one
// that keeps them and gets the rest from here would end with a file that is
// neither. It must be called before Run.
func (t *Task) ExcludePeers(peers map[string]struct{}) { t.outdated = peers }

// Restore has the task begin with what another scheduler remembered of it, and
// adopt peers that it did not. It must be called before Run.
func (t *Task) Restore(u swarm.Update) {
	t.swarm.Restore(u, time.Now())
	t.restored = true
	outdated := make(map[string]struct{}, len(u.Outdated))
	for _, id := range u.Outdated {
		outdated[id] = struct{}{}
	}
	t.ExcludePeers(outdated)
}

// Update tells what changed since it was asked last, or all there is; from the
// first time on Changed is called.
func (t *Task) Changes(ctx context.Context, full bool) (swarm.Update, error) {
	return query(ctx, t, func() (swarm.Update, error) {
		u := t.swarm.Changes(full)
		if u.Full {
			u.Outdated = slices.Collect(maps.Keys(t.outdated))
		}
		return u, nil
	})
}

// admit tells whether a peer may take part.
func (t *Task) admit(peerID string) error {
	if _, old := t.outdated[peerID]; old {
		return rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "the source has changed since the peer began")
	}
	return nil
}

// Run owns the task's state until ctx ends; then held pulls are let go.
func (t *Task) Run(ctx context.Context) {
	defer close(t.ended)
	defer t.swarm.Close()
	timer := time.NewTimer(idleTickInterval)
	defer timer.Stop()
	lastTick := time.Now()
	var nextScan time.Time // when held pulls are looked at again, at the earliest
	for {
		select {
		case <-ctx.Done():
			t.releaseHeld(rpcerr.New(codes.Unavailable, "", "the scheduler is stopping"))
			return
		case call := <-t.calls:
			call()
			t.drainCalls()
		case <-timer.C:
		}
		// The timer alone would never tick while calls keep coming: each sets it anew.
		now := time.Now()
		if now.Sub(lastTick) >= tickInterval {
			t.swarm.Tick(now)
			lastTick = now
		}
		t.notifyChanges()
		if wait := nextScan.Sub(now); wait > 0 {
			timer.Reset(wait)
			continue
		}
		t.answerHeld(now)
		if took := time.Since(now); took > slowScan {
			nextScan = now.Add(2 * took)
		}
		switch {
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

// drainCalls takes the calls that wait already, so that a crowd's reports are
// answered with one look at the swarm.
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

// do runs f in the loop and waits for it. Whoever gives up waiting must not look
// at what f may still write: what it gives comes through ask.
func (t *Task) do(ctx context.Context, f func() error) error {
	_, err := query(ctx, t, func() (struct{}, error) { return struct{}{}, f() })
	return err
}

// query runs f in the loop and waits for what it gives.
func query[T any](ctx context.Context, t *Task, f func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	var none T
	result := make(chan outcome, 1)
	call := func() {
		value, err := f()
		result <- outcome{value, err}
	}
	select {
	case t.calls <- call:
	case <-t.ended:
		return none, errEnded
	case <-ctx.Done():
		return none, ctx.Err()
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

var errEnded = rpcerr.New(codes.Unavailable, "", "the task was put away")

// rpcError gives the swarm's refusals their kind. The caller is the loop.
func (t *Task) rpcError(err error) error {
	_, known := t.swarm.Facts()
	switch {
	case err == nil:
		return nil
	case errors.Is(err, swarm.ErrNoPeer) && !known && t.err == nil:
		// The task may turn out to be another scheduler's, who knows the peer.
		return rpcerr.New(codes.Unavailable, "", "it is not known yet who answers for the task: %v", err)
	case errors.Is(err, swarm.ErrNoPeer):
		return rpcerr.New(codes.NotFound, rpcerr.PeerNotFound, "%v", err)
	case errors.Is(err, swarm.ErrNoPiece):
		return rpcerr.Invalid("%v", err)
	case errors.Is(err, swarm.ErrNotYet):
		// Nothing is lost: once the piece has landed it is offered, and a
		// client that has it says so then. An error would make it leave.
		return nil
	}
	return err
}

// Register takes a peer in and waits until the facts of the source are known.
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
		t.swarm.AddPeer(info, time.Now())
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

// CopySuspected says that a client could not fetch from the CDN copy.
func (t *Task) CopySuspected() <-chan struct{} { return t.copySuspected }

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// State is what the table has to know of a task.
type State struct {
	// Err is why it failed, FailedAt when.
	Err      error
	FailedAt time.Time
	// LastUsed is when a peer was last heard of.
	LastUsed time.Time
	// Peers is the number of peers, Unfinished that of those among them that
	// are not known to have left and lack pieces.
	Peers      int
	Unfinished int
}

// State looks at the task.
func (t *Task) State(ctx context.Context) (State, error) {
	return query(ctx, t, func() (State, error) {
		return State{
			Err: t.err, FailedAt: t.failedAt, LastUsed: t.lastUsed, Peers: t.swarm.Peers(), Unfinished: t.swarm.Unfinished(),
		}, nil
	})
}

// Outdated are the peers that another version of the task has to keep out.
func (t *Task) Outdated(ctx context.Context) (map[string]struct{}, error) {
	peers := maps.Clone(t.outdated)
	if peers == nil {
		peers = make(map[string]struct{})
	}
	ids, err := query(ctx, t, func() ([]string, error) { return t.swarm.PeerIDs(), nil })
	for _, id := range ids {
		peers[id] = struct{}{}
	}
	return peers, err
}

// Expire drops peers that left, or were not heard of, before the given times.
func (t *Task) Expire(ctx context.Context, leftBefore, silentBefore time.Time) error {
	return t.do(ctx, func() error {
		t.swarm.Expire(leftBefore, silentBefore)
		return nil
	})
}

// Holdings lists the peers that serve, with the facts of the task.
func (t *Task) Holdings(ctx context.Context) ([]swarm.Holding, swarm.Facts, error) {
	type holdings struct {
		list  []swarm.Holding
		facts swarm.Facts
	}
	h, err := query(ctx, t, func() (holdings, error) {
		facts, _ := t.swarm.Facts()
		return holdings{t.swarm.Holdings(time.Now()), facts}, nil
	})
	return h.list, h.facts, err
}
