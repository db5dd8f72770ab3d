package reconciler

import (
	"context"
	"fmt"
	"strings"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	// callTimeout bounds a call to the registry.
	callTimeout = 3 * time.Second
	// ownerCheckTimeout bounds a call of StillOwner, during which a fetch is paused.
	ownerCheckTimeout = time.Second
)

// call is a call to the registry about a task.
type call struct {
	action action
	id     task.ID
	epoch  int64
	stream uint64 // the number of the stream when the call was started
	// copyAt is the endpoint of the CDN that must have a copy as complete as own before
	// the task is moved. It is empty if no copy is required.
	copyAt string
	own    task.Inventory
}

// answer is the result of a call.
type answer struct {
	record   *record // nil if the registry returned none
	err      error
	deferred bool // the call was not made, because the copy at copyAt is incomplete
}

// settled reports whether a resign or a refresh need not be repeated.
func (a answer) settled() bool { return a.err == nil || rpcerr.From(a.err).Code == codes.NotFound }

// refused reports whether a move failed because no other CDN accepts the task or the
// task has no record.
func (a answer) refused() bool {
	return a.err != nil && (rpcerr.ReasonOf(a.err) == rpcerr.NoCDN || rpcerr.From(a.err).Code == codes.NotFound)
}

// call makes a call, after it has checked the copy that the call requires.
func (r *Reconciler) call(ctx context.Context, c call) answer {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if c.copyAt != "" && !r.hasCopy(ctx, c.copyAt, c.own) {
		return answer{deferred: true}
	}
	rec, err := r.callRegistry(ctx, c)
	r.metrics.count(c.action.String(), err)
	if err != nil || rec == nil {
		return answer{err: err}
	}
	found, err := fromProto(rec)
	if err != nil {
		return answer{err: err}
	}
	if found.id != c.id {
		return answer{err: fmt.Errorf("the registry returned the record of task %s, not of task %s", found.id, c.id)}
	}
	return answer{record: &found}
}

func (r *Reconciler) callRegistry(ctx context.Context, c call) (*registryv1.TaskRecord, error) {
	id := string(c.id)
	switch c.action {
	case refresh:
		resp, err := r.registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: id, Fresh: true})
		return resp.GetRecord(), wrap(err, "reading the record of a task")
	case resign:
		resp, err := r.registry.ResignTask(ctx, &registryv1.ResignTaskRequest{TaskId: id, CdnId: r.id})
		return resp.GetRecord(), wrap(err, "resigning from a task")
	case repair:
		resp, err := r.registry.RepairTask(ctx, &registryv1.RepairTaskRequest{TaskId: id, CdnId: r.id})
		return resp.GetRecord(), wrap(err, "repairing the record of a task")
	case move:
		resp, err := r.registry.MoveTask(ctx, &registryv1.MoveTaskRequest{TaskId: id, Epoch: c.epoch})
		return resp.GetRecord(), wrap(err, "moving a task to another CDN")
	default:
		return nil, fmt.Errorf("unknown action %q", c.action)
	}
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// StillOwner reads from the store whether this instance owns a task. If the store does
// not answer or has no record, StillOwner returns true and an error: an instance does not
// stop its work because the registry is unavailable.
func (r *Reconciler) StillOwner(ctx context.Context, id task.ID, epoch int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, ownerCheckTimeout)
	defer cancel()
	resp, err := r.registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: string(id), Fresh: true})
	r.metrics.count("still_owner", err)
	if err != nil {
		return true, fmt.Errorf("reading the owner of the task: %w", err)
	}
	rec := resp.GetRecord()
	if rec.GetOwner() == r.id {
		return true, nil
	}
	r.log.Info("another CDN owns the task", zap.String("task_id", string(id)), zap.Int64("known_epoch", epoch),
		zap.String("owner", rec.GetOwner()), zap.Int64("epoch", rec.GetEpoch()))
	r.Stale(id)
	return false, nil
}

// reason returns the value of the metric label for the result of a call.
func reason(err error) string {
	if err == nil {
		return "ok"
	}
	known := rpcerr.From(err)
	if known.Reason != "" {
		return strings.ToLower(string(known.Reason))
	}
	return strings.ToLower(known.Code.String())
}
