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
	// ownerCheckTimeout bounds the question whether this instance is still the owner:
	// a fetch waits for it.
	ownerCheckTimeout = time.Second
)

// call is one call to the registry about a task.
type call struct {
	action action
	id     task.ID
	epoch  int64
	stream uint64 // the stream that was heard when it was made
	// copyAt is where a copy must be like own before a task is moved, empty if
	// that does not matter.
	copyAt string
	own    task.Inventory
}

// answer is what came of a call.
type answer struct {
	record   *record // nil when there is none
	err      error
	deferred bool // it was not asked for yet
}

// settled says that nothing is left to be done about a loss or a stale record.
func (a answer) settled() bool { return a.err == nil || rpcerr.From(a.err).Code == codes.NotFound }

// refused says that no other CDN takes the task, or that it is this one's no more.
func (a answer) refused() bool {
	return a.err != nil && (rpcerr.ReasonOf(a.err) == rpcerr.NoCDN || rpcerr.From(a.err).Code == codes.NotFound)
}

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
		return answer{err: fmt.Errorf("asked about task %s, the registry answered about %s", c.id, found.id)}
	}
	return answer{record: &found}
}

func (r *Reconciler) callRegistry(ctx context.Context, c call) (*registryv1.TaskRecord, error) {
	id := string(c.id)
	switch c.action {
	case refresh:
		resp, err := r.registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: id, Fresh: true})
		return resp.GetRecord(), wrap(err, "asking for the record of a task")
	case resign:
		resp, err := r.registry.ResignTask(ctx, &registryv1.ResignTaskRequest{TaskId: id, CdnId: r.id})
		return resp.GetRecord(), wrap(err, "resigning from a task")
	case repair:
		resp, err := r.registry.RepairTask(ctx, &registryv1.RepairTaskRequest{TaskId: id, CdnId: r.id})
		return resp.GetRecord(), wrap(err, "asking for the repair of a task")
	case move:
		resp, err := r.registry.MoveTask(ctx, &registryv1.MoveTaskRequest{TaskId: id, Epoch: c.epoch})
		return resp.GetRecord(), wrap(err, "giving a task to another cdn")
	default:
		return nil, fmt.Errorf("there is no call for %q", c.action)
	}
}

func wrap(err error, what string) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// StillOwner asks the store whether this instance owns the task. It is true,
// with an error, as long as nobody can say: nothing steps down because of
// silence.
func (r *Reconciler) StillOwner(ctx context.Context, id task.ID, epoch int64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, ownerCheckTimeout)
	defer cancel()
	resp, err := r.registry.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: string(id), Fresh: true})
	r.metrics.count("still_owner", err)
	if err != nil {
		return true, fmt.Errorf("asking who owns the task: %w", err)
	}
	rec := resp.GetRecord()
	if rec.GetOwner() == r.id {
		return true, nil
	}
	r.log.Info("another cdn owns the task", zap.String("task_id", string(id)), zap.Int64("known_epoch", epoch),
		zap.String("owner", rec.GetOwner()), zap.Int64("epoch", rec.GetEpoch()))
	r.Stale(id)
	return false, nil
}

// reason is an error as a metric's label.
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
