// Package report tells the registry how fetches stand. It is a courtesy to the
// rest of the cluster: it never makes a fetch wait or fail, and of several
// states of one task that have not been sent only the last one is. That one is
// kept for as long as the registry is away. A task in epoch 0 has no record to
// write to: whoever learns of one reports the task again, in its epoch.
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
	maxPending   = 10_000 // tasks a worker; beyond that, news of new tasks is dropped
	callTimeout  = 2 * time.Second
	initialDelay = 200 * time.Millisecond
	maxDelay     = 5 * time.Second
	flushTimeout = 2 * time.Second // for all that is pending at the end
)

// Status is how a fetch stands.
type Status int

// The states of a fetch that the registry is told.
const (
	Running Status = iota + 1
	Success
	Failed
)

// Update is the state of a task as this instance knows it.
type Update struct {
	// ID names the task.
	ID task.ID
	// Epoch is the one in which this instance owns the task.
	Epoch int64
	// Status is how the fetch stands.
	Status Status
	// Facts are nil as long as nothing is known of the source.
	Facts *task.Facts
}

// Reporter sends updates. Run must be running for that.
type Reporter struct {
	log      *zap.Logger
	registry registryv1.RegistryServiceClient
	owner    string
	stale    func(task.ID)
	queues   []*queue
}

// queue is what one worker has to send. A task always uses the same one, so its
// states arrive in order.
type queue struct {
	mu      sync.Mutex
	pending map[task.ID]Update // guarded by mu
	order   []task.ID          // the keys of pending, oldest first; guarded by mu
	wake    chan struct{}
}

// New makes a Reporter that writes as owner. stale is told of tasks that are
// owned in another epoch than was reported, and must not wait.
func New(log *zap.Logger, registry registryv1.RegistryServiceClient, owner string, stale func(task.ID)) *Reporter {
	r := &Reporter{log: log, registry: registry, owner: owner, stale: stale}
	for range workers {
		r.queues = append(r.queues, &queue{pending: make(map[task.ID]Update), wake: make(chan struct{}, 1)})
	}
	return r
}

// Report takes note of a state and does not wait.
func (r *Reporter) Report(u Update) {
	if u.Epoch == 0 {
		return // no record is known, and none has this epoch
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(u.ID)) // cannot fail
	q := r.queues[h.Sum32()%workers]
	if !q.put(u) {
		r.log.Warn("not telling the registry, too much is waiting", zap.String("task_id", string(u.ID)))
	}
}

// Run sends until ctx ends, and then what is left within a short time.
func (r *Reporter) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, q := range r.queues {
		wg.Go(func() { r.runWorker(ctx, q) })
	}
	wg.Wait()
}

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
		// Most often the registry is away, for the others of the queue, too.
		select {
		case <-time.After(delay):
			delay = min(2*delay, maxDelay)
		case <-ctx.Done():
		}
	}
	r.flush(ctx, q)
}

func (r *Reporter) flush(ctx context.Context, q *queue) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for u, ok := q.take(); ok; u, ok = q.take() {
		if err := r.call(ctx, u); err != nil {
			r.log.Warn("telling the registry at the end", zap.String("task_id", string(u.ID)), zap.Error(err))
		}
	}
}

// send is false if the registry has neither taken nor refused the update; then
// it waits for its turn again, behind the others.
func (r *Reporter) send(ctx context.Context, q *queue, u Update) bool {
	err := r.call(ctx, u)
	if err == nil {
		return true
	}
	log := r.log.With(zap.String("task_id", string(u.ID)), zap.Int64("epoch", u.Epoch), zap.Error(err))
	switch {
	case ctx.Err() != nil || isRetriable(err):
		if ctx.Err() == nil {
			log.Debug("the registry is to be told later")
		}
		q.putBack(u)
		return false
	case rpcerr.ReasonOf(err) == rpcerr.StaleEpoch:
		log.Info("the task is owned in another epoch")
		r.stale(u.ID)
	default:
		log.Warn("the registry does not take the state of a task")
	}
	return true
}

// isRetriable tells an error that may pass from a refusal, such as STALE_EPOCH.
func isRetriable(err error) bool {
	switch rpcerr.From(err).Code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted, codes.Internal, codes.Unknown:
		return true
	default:
		return false
	}
}

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
