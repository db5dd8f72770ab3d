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
	// pingTimeout bounds the question whether another scheduler is alive. It is
	// asked again before it counts as dead: a busy machine may be late once.
	pingTimeout = 500 * time.Millisecond
	maxPings    = 2
	// acquireTimeout bounds all that is asked for one caller: clients wait for 5 s
	// in all, and have more to do in them.
	acquireTimeout = 1500 * time.Millisecond
)

// liveness is what is known of another scheduler.
type liveness int

const (
	alive        liveness = iota // or nothing is proven
	unresponsive                 // it does not answer
	// notMember is no member that this one knows of. It may have joined a moment
	// ago: only the registry can tell that it is gone.
	notMember
)

// checkLiveness asks a scheduler whether it is alive, at the endpoint that the registry
// has told or, if it has told none, where this one knows it.
func (r *Resolver) checkLiveness(ctx context.Context, id, endpoint string) (p liveness, at string) {
	if endpoint == "" {
		m, there := r.FindScheduler(id)
		if !there {
			return notMember, ""
		}
		endpoint = m.Endpoint
	}
	for range maxPings {
		err := r.ping(ctx, id, endpoint)
		// A caller that left, or this process when it ends, has proven nothing.
		if err == nil || ctx.Err() != nil || errors.Is(err, context.Canceled) {
			return alive, endpoint
		}
		if !errors.Is(err, context.DeadlineExceeded) && rpcerr.From(err).Code != codes.DeadlineExceeded {
			break // nobody is there
		}
	}
	return unresponsive, endpoint
}

func (r *Resolver) ping(ctx context.Context, id, endpoint string) error {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	return r.Schedulers.Check(ctx, id, endpoint)
}

// takeOver claims a task whose scheduler is silent, or absent: that one the
// registry takes it from only if it is no member.
func (r *Resolver) takeOver(
	ctx context.Context, req *registryv1.ResolveTaskRequest, record *registryv1.TaskRecord, why liveness,
) (*registryv1.ResolveTaskResponse, error) {
	r.Log.Warn("taking a task over from a scheduler that does not answer",
		zap.String("task_id", req.GetTaskId()), zap.String("scheduler_id", record.GetScheduler()))
	claim := &registryv1.ResolveTaskRequest{
		TaskId: req.GetTaskId(), Url: req.GetUrl(), SchedulerId: r.SelfID,
		Last: record, LostOwner: req.GetLostOwner(), Excluded: req.GetExcluded(),
	}
	if why == unresponsive {
		claim.LostScheduler = record.GetScheduler()
	}
	resp, err := r.ask(ctx, claim)
	if err != nil {
		return nil, err
	}
	if s := resp.GetRecord().GetScheduler(); s != r.SelfID && !resp.GetUnclaimed() {
		return nil, NotOwner(s, resp.GetScheduler().GetEndpoint())
	}
	r.TookOver()
	return resp, nil
}

// HandOver gives a task of this scheduler to another one that knows what there
// is to know of it, and tells who answers for it now: nobody when it has no
// record, another one when it was not this one's any more.
func (r *Resolver) HandOver(ctx context.Context, taskID, to string) (scheduler string, err error) {
	record, err := r.currentRecord(ctx, taskID)
	if err != nil || record.GetScheduler() != r.SelfID {
		return record.GetScheduler(), err
	}
	resp, err := r.ask(ctx, &registryv1.ResolveTaskRequest{
		TaskId: taskID, Url: record.GetUrl(), SchedulerId: to, Last: record, LostScheduler: r.SelfID,
	})
	switch {
	case err != nil:
		return "", err
	case resp.GetUnclaimed() || resp.GetRecord().GetScheduler() == r.SelfID:
		return "", unresolved(taskID, errors.New("it is still this scheduler's"))
	}
	return resp.GetRecord().GetScheduler(), nil
}

// currentRecord gives the record that the store has, or none.
func (r *Resolver) currentRecord(ctx context.Context, taskID string) (*registryv1.TaskRecord, error) {
	ctx, release, err := r.acquireSlot(ctx)
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
	return nil, fmt.Errorf("asking for the record of task %s: %w", taskID, err)
}

// lookups lets those who ask for the same task at the same time share the answer.
type lookups struct {
	mu       sync.Mutex // guards inFlight
	inFlight map[string]*lookup
}

type lookup struct {
	done       chan struct{} // closed when the rest is there
	assignment Assignment
	err        error
}

// Assignment is a task that this scheduler answers for.
type Assignment struct {
	Record *registryv1.TaskRecord
	// Unclaimed says that the store could not be asked. The record is what the
	// registry had last seen: the task may have begun anew since, and may be found
	// to be another scheduler's.
	Unclaimed bool
}

// Acquire says whose a task is that is not here: a assignment when this scheduler
// answers for it, since now perhaps, because the one that did is dead;
// NOT_OWNER when another does, TASK_NOT_FOUND when nobody does. It is taken from
// a dead one only if mayTake still says so: a scheduler that is about to end has
// no use for it, and the record would name a dead one again.
func (r *Resolver) Acquire(ctx context.Context, taskID string, mayTake func() bool) (Assignment, error) {
	r.lookups.mu.Lock()
	l := r.lookups.inFlight[taskID]
	mine := l == nil
	if mine {
		l = &lookup{done: make(chan struct{})}
		r.lookups.inFlight[taskID] = l
	}
	r.lookups.mu.Unlock()
	if mine {
		// Others rely on the answer though the first who asked may leave.
		l.assignment, l.err = r.acquire(context.WithoutCancel(ctx), taskID, mayTake)
		r.lookups.mu.Lock()
		delete(r.lookups.inFlight, taskID)
		r.lookups.mu.Unlock()
		close(l.done)
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
	unknown := rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "task %s is not known", taskID)
	resp, err := r.Registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: taskID})
	switch {
	case err == nil:
	case rpcerr.From(err).Code == codes.NotFound:
		return Assignment{}, unknown
	default:
		// Another scheduler may well have it: the caller must not give up.
		return Assignment{}, unresolved(taskID, err)
	}
	record := resp.GetRecord()
	if record.GetScheduler() == r.SelfID {
		return Assignment{Record: record}, nil
	}
	p, endpoint := r.checkLiveness(ctx, record.GetScheduler(), "")
	if p == alive {
		return Assignment{}, NotOwner(record.GetScheduler(), endpoint)
	}
	if !mayTake() {
		return Assignment{}, rpcerr.New(codes.Unavailable, "",
			"scheduler %s does not answer, and this one takes no task over any more", record.GetScheduler())
	}
	taken, err := r.takeOver(ctx, &registryv1.ResolveTaskRequest{TaskId: taskID, Url: record.GetUrl()}, record, p)
	switch {
	case err == nil:
		return Assignment{Record: taken.GetRecord(), Unclaimed: taken.GetUnclaimed()}, nil
	case rpcerr.ReasonOf(err) == rpcerr.NotOwner:
		return Assignment{}, err
	}
	return Assignment{}, unresolved(taskID, err)
}

func unresolved(taskID string, err error) error {
	return rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable,
		"task %s is not here, and the registry does not say where: %v", taskID, err)
}
