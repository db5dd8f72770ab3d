package resolver

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

const (
	// pingTimeout bounds one ping of another scheduler. A scheduler counts as dead
	// after maxPings pings have timed out: a busy machine may answer late once.
	pingTimeout = 500 * time.Millisecond
	maxPings    = 2
	// acquireTimeout bounds all requests of one lookup. Clients wait for 5 s in
	// total, and the lookup is only a part of their call.
	acquireTimeout = 1500 * time.Millisecond
)

// liveness is the result of checking another scheduler. The package comment shows the
// transitions.
type liveness int

const (
	alive        liveness = iota // it answers, or its death is not proven
	unresponsive                 // it does not answer
	// notMember is set if the scheduler is not in this scheduler's list of members. It
	// may have joined a moment ago: only the registry can find that it has left.
	notMember
)

// checkLiveness pings a scheduler at the given endpoint. If that is empty, it uses the
// endpoint in this scheduler's list of members. It returns the endpoint used.
func (r *Resolver) checkLiveness(ctx context.Context, id, endpoint string) (l liveness, at string) {
	if endpoint == "" {
		m, ok := r.FindScheduler(id)
		if !ok {
			return notMember, ""
		}
		endpoint = m.Endpoint
	}
	for range maxPings {
		err := r.ping(ctx, id, endpoint)
		// A ping that was canceled, by its caller or by the end of this process, proves nothing.
		if err == nil || ctx.Err() != nil || errors.Is(err, context.Canceled) {
			return alive, endpoint
		}
		if !errors.Is(err, context.DeadlineExceeded) && rpcerr.From(err).Code != codes.DeadlineExceeded {
			break // no process listens at the endpoint: another ping would fail too
		}
	}
	return unresponsive, endpoint
}

func (r *Resolver) ping(ctx context.Context, id, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return r.Schedulers.Check(ctx, id, endpoint)
}

// takeOver claims a task whose scheduler is dead. An unresponsive scheduler is
// reported to the registry as lost. From one that is not a member the registry
// takes the task only if it finds no such member either.
func (r *Resolver) takeOver(
	ctx context.Context, req *registryv1.ResolveTaskRequest, record *registryv1.TaskRecord, why liveness,
) (*registryv1.ResolveTaskResponse, error) {
	r.Log.Warn("the task's scheduler does not answer or is not a member; taking the task over",
		zap.String("task_id", req.GetTaskId()), zap.String("scheduler_id", record.GetScheduler()))
	claim := &registryv1.ResolveTaskRequest{
		TaskId: req.GetTaskId(), Url: req.GetUrl(), SchedulerId: r.SelfID,
		Last: record, LostOwner: req.GetLostOwner(), Excluded: req.GetExcluded(),
	}
	if why == unresponsive {
		claim.LostScheduler = record.GetScheduler()
	}
	resp, err := r.ask(ctx, r.failover, claim)
	if err != nil {
		return nil, err
	}
	if s := resp.GetRecord().GetScheduler(); s != r.SelfID && !resp.GetUnclaimed() {
		return nil, NotOwner(s, resp.GetScheduler().GetEndpoint())
	}
	r.TookOver()
	return resp, nil
}

// HandOver records another scheduler, which has the task's replicated state, as the
// scheduler of a task of this scheduler. It returns the scheduler that answers
// for the task now. That is an empty string if the task has no record, and a
// third scheduler if the record did not name this one any more.
func (r *Resolver) HandOver(ctx context.Context, taskID, to string) (scheduler string, err error) {
	record, err := r.currentRecord(ctx, taskID)
	if err != nil || record.GetScheduler() != r.SelfID {
		return record.GetScheduler(), err
	}
	resp, err := r.ask(ctx, r.failover, &registryv1.ResolveTaskRequest{
		TaskId: taskID, Url: record.GetUrl(), SchedulerId: to, Last: record, LostScheduler: r.SelfID,
	})
	switch {
	case err != nil:
		return "", err
	case resp.GetUnclaimed() || resp.GetRecord().GetScheduler() == r.SelfID:
		return "", rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable,
			"handing task %s over to scheduler %s: the store has not recorded it", taskID, to)
	}
	return resp.GetRecord().GetScheduler(), nil
}

// currentRecord returns the record in the store, or nil if there is none.
func (r *Resolver) currentRecord(ctx context.Context, taskID string) (*registryv1.TaskRecord, error) {
	ctx, release, err := r.failover.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	resp, err := r.Registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: taskID, Fresh: true})
	switch {
	case err == nil:
		return resp.GetRecord(), nil
	case rpcerr.From(err).Code == codes.NotFound:
		return nil, nil
	}
	return nil, fmt.Errorf("reading the record of task %s: %w", taskID, err)
}

// lookups makes concurrent calls for one task share one lookup.
type lookups struct {
	mu       sync.Mutex // guards inFlight and closed, and that work grows only without closed
	inFlight map[string]*lookup
	closed   bool
	work     sync.WaitGroup // lookups
}

type lookup struct {
	done       chan struct{} // closed when the other fields are set
	assignment Assignment
	err        error
}

// Assignment holds the record of a task that this scheduler answers for.
type Assignment struct {
	Record *registryv1.TaskRecord
	// Unclaimed is set if the store was not available. The record is then the last
	// one that the registry received: the task may have started from scratch since,
	// or may belong to another scheduler.
	Unclaimed bool
}

// Acquire returns the record of a task if this scheduler answers for it. If the task's
// scheduler is dead and mayTake returns true, Acquire takes the task over first. A
// scheduler that is stopping must not take tasks over, because the record would
// name a dead scheduler again.
//
// Acquire returns NOT_OWNER if another scheduler answers for the task, TASK_NOT_FOUND
// if the task has no record, and STORE_UNAVAILABLE if no registry is available.
func (r *Resolver) Acquire(ctx context.Context, taskID string, mayTake func() bool) (Assignment, error) {
	r.lookups.mu.Lock()
	l := r.lookups.inFlight[taskID]
	isFirst := l == nil
	if isFirst {
		l = &lookup{done: make(chan struct{})}
		r.lookups.inFlight[taskID] = l
	}
	closed := r.lookups.closed
	find := func() {
		// Other callers share the result, so the first caller's end must not stop it.
		l.assignment, l.err = r.acquire(context.WithoutCancel(ctx), taskID, mayTake)
		r.lookups.mu.Lock()
		delete(r.lookups.inFlight, taskID)
		r.lookups.mu.Unlock()
		close(l.done)
	}
	if isFirst && !closed {
		r.lookups.work.Go(find)
	}
	r.lookups.mu.Unlock()
	if isFirst && closed {
		find()
	}
	select {
	case <-l.done:
		return l.assignment, l.err
	case <-ctx.Done():
		return Assignment{}, ctx.Err()
	}
}

func (r *Resolver) acquire(ctx context.Context, taskID string, mayTake func() bool) (Assignment, error) {
	ctx, cancel := context.WithTimeout(ctx, acquireTimeout)
	defer cancel()
	noRecord := rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "task %s has no record", taskID)
	resp, err := r.lookUp(ctx, taskID)
	switch {
	case err == nil:
	case rpcerr.From(err).Code == codes.NotFound:
		return Assignment{}, noRecord
	default:
		// Another scheduler may answer for the task, so the client must not leave.
		return Assignment{}, unresolved(taskID, err)
	}
	record := resp.GetRecord()
	if record.GetScheduler() == r.SelfID {
		return Assignment{Record: record}, nil
	}
	l, endpoint := r.checkLiveness(ctx, record.GetScheduler(), "")
	if l == alive {
		return Assignment{}, NotOwner(record.GetScheduler(), endpoint)
	}
	if !mayTake() {
		return Assignment{}, rpcerr.New(codes.Unavailable, "",
			"scheduler %s does not answer, and this scheduler is stopping and takes over no task", record.GetScheduler())
	}
	taken, err := r.takeOver(ctx, &registryv1.ResolveTaskRequest{TaskId: taskID, Url: record.GetUrl()}, record, l)
	switch {
	case err == nil:
		return Assignment{Record: taken.GetRecord(), Unclaimed: taken.GetUnclaimed()}, nil
	case rpcerr.ReasonOf(err) == rpcerr.NotOwner:
		return Assignment{}, err
	}
	return Assignment{}, unresolved(taskID, err)
}

// lookUp reads the record of a task, with a slot. If there is no slot within
// acquireTimeout, the registry answers none of the lookups that hold one.
func (r *Resolver) lookUp(ctx context.Context, taskID string) (*registryv1.GetTaskResponse, error) {
	ctx, release, err := r.reads.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	return r.Registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: taskID})
}

func unresolved(taskID string, err error) error {
	return rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable,
		"cannot find out which scheduler answers for task %s: %v", taskID, err)
}
