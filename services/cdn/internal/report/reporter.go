// Package report sends the states of fetches to the registry.
//
// Invariants:
//
//   - A report neither delays a fetch nor fails it.
//   - Of several unsent states of a task only the last one is sent. It is kept while the
//     registry is unavailable.
//   - The states of a task are sent in their order.
//   - A task in epoch 0 has no record, and nothing is sent for it. Its state is reported
//     again when the task gets an epoch.
package report

import (
	"context"
	"hash/fnv"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	workers      = 4
	maxPending   = 10_000 // tasks per worker; updates of further tasks are dropped
	callTimeout  = 2 * time.Second
	initialDelay = 200 * time.Millisecond
	maxDelay     = 5 * time.Second
	flushTimeout = 2 * time.Second // for all updates that are pending at the end
)

// Status is the state of a fetch.
type Status int

// The states of a fetch that are reported.
const (
	Running Status = iota + 1
	Success
	Failed
)

// Update is the state of a task that this instance owns.
type Update struct {
	ID task.ID
	// Epoch is the epoch in which this instance owns the task.
	Epoch  int64
	Status Status
	// Facts is nil while the facts of the source are unknown.
	Facts *task.Facts
}

// Reporter sends updates to the registry while Run runs. It is safe for concurrent use.
type Reporter struct {
	log      *zap.Logger
	registry registryv1.RegistryServiceClient
	owner    string
	stale    func(task.ID)
	queues   []*queue
}

// queue holds the pending updates of one worker. A task always uses the same queue, so
// that its states are sent in order.
type queue struct {
	mu      sync.Mutex
	pending map[task.ID]Update // guarded by mu
	order   []task.ID          // the keys of pending, oldest first; guarded by mu
	wake    chan struct{}
}

// New returns a reporter for the CDN owner. stale is called for each task whose update the
// registry refuses, because the task has another owner or epoch. It must not block.
func New(log *zap.Logger, registry registryv1.RegistryServiceClient, owner string, stale func(task.ID)) *Reporter {
	r := &Reporter{log: log, registry: registry, owner: owner, stale: stale}
	for range workers {
		r.queues = append(r.queues, &queue{pending: make(map[task.ID]Update), wake: make(chan struct{}, 1)})
	}
	return r
}

// Report queues an update. It does not block.
func (r *Reporter) Report(u Update) {
	if u.Epoch == 0 {
		return // the task has no record
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(u.ID)) // cannot fail
	q := r.queues[h.Sum32()%workers]
	if !q.put(u) {
		r.log.Warn("dropping the report of a task, too many reports are pending", zap.String("task_id", string(u.ID)))
	}
}

// Run sends updates until ctx ends. Then it sends the pending ones within flushTimeout.
func (r *Reporter) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, q := range r.queues {
		wg.Go(func() { r.runWorker(ctx, q) })
	}
	wg.Wait()
}

// runWorker sends the updates of a queue. After a failure it waits, with a growing delay.
func (r *Reporter) runWorker(ctx context.Context, q *queue) {
	delay := initialDelay
	for ctx.Err() == nil {
		u, ok := q.take()
		if !ok {
			select {
			case <-q.wake:
			case <-ctx.Done():
			}
			continue
		}
		if r.send(ctx, q, u) {
			delay = initialDelay
			continue
		}
		// The registry is probably unavailable, so the next update would fail too.
		select {
		case <-time.After(delay):
			delay = min(2*delay, maxDelay)
		case <-ctx.Done():
		}
	}
	r.flush(ctx, q)
}

// flush sends the pending updates once, within flushTimeout.
func (r *Reporter) flush(ctx context.Context, q *queue) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for u, ok := q.take(); ok; u, ok = q.take() {
		if err := r.call(ctx, u); err != nil {
			r.log.Warn("cannot report the state of a task before the end; dropping the report", zap.String("task_id", string(u.ID)), zap.Error(err))
		}
	}
}

// send sends an update. It returns false if the registry has neither accepted nor refused
// the update. Then the update is queued again.
func (r *Reporter) send(ctx context.Context, q *queue, u Update) bool {
	err := r.call(ctx, u)
	if err == nil {
		return true
	}
	log := r.log.With(zap.String("task_id", string(u.ID)), zap.Int64("epoch", u.Epoch), zap.Error(err))
	switch {
	case ctx.Err() != nil || isRetriable(err):
		if ctx.Err() == nil {
			log.Debug("cannot report the state of a task; retrying later")
		}
		q.putBack(u)
		return false
	case rpcerr.ReasonOf(err) == rpcerr.StaleEpoch:
		log.Info("the registry refuses a report, because the task has another owner or epoch; reading its record")
		r.stale(u.ID)
	default:
		log.Warn("the registry refuses the report of a task; dropping the report")
	}
	return true
}

// isRetriable reports whether a call may succeed later. It returns false for a refusal,
// such as STALE_EPOCH.
func isRetriable(err error) bool {
	switch rpcerr.From(err).Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal, codes.Unknown:
		return true
	default:
		return false
	}
}

// call sends an update to the registry.
func (r *Reporter) call(ctx context.Context, u Update) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	req := &registryv1.UpdateTaskRequest{TaskId: string(u.ID), Owner: r.owner, Epoch: u.Epoch, Status: taskStatus(u.Status)}
	if u.Facts != nil {
		req.PieceSize = u.Facts.PieceSize
		req.Source = &registryv1.SourceIdentity{
			Length: u.Facts.Length, Etag: u.Facts.ETag, LastModified: u.Facts.LastModified,
		}
	}
	_, err := r.registry.UpdateTask(ctx, req)
	return err
}

func taskStatus(s Status) registryv1.TaskStatus {
	switch s {
	case Running:
		return registryv1.TaskStatus_TASK_STATUS_RUNNING
	case Success:
		return registryv1.TaskStatus_TASK_STATUS_SUCCESS
	case Failed:
		return registryv1.TaskStatus_TASK_STATUS_FAILED
	default:
		return registryv1.TaskStatus_TASK_STATUS_UNSPECIFIED
	}
}
