// Package report tells the registry how fetches stand. It is a courtesy to the
// rest of the cluster: it never makes a fetch wait or fail, and of several
// states of one task that have not been sent only the last one is.
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
	mostPending  = 10_000 // tasks a worker; beyond that, news of new tasks is dropped
	callTimeout  = 2 * time.Second
	mostAttempts = 5
	firstDelay   = 200 * time.Millisecond
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
	lanes    []*lane
}

// lane is what one worker has to send. A task always uses the same one, so its
// states arrive in order.
type lane struct {
	mu      sync.Mutex
	pending map[task.ID]Update // guarded by mu
	order   []task.ID          // the keys of pending, oldest first; guarded by mu
	wake    chan struct{}
}

// New makes a Reporter that writes as owner.
func New(log *zap.Logger, registry registryv1.RegistryServiceClient, owner string) *Reporter {
	r := &Reporter{log: log, registry: registry, owner: owner}
	for range workers {
		r.lanes = append(r.lanes, &lane{pending: make(map[task.ID]Update), wake: make(chan struct{}, 1)})
	}
	return r
}

// Report takes note of a state and does not wait.
func (r *Reporter) Report(u Update) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(u.ID)) // cannot fail
	l := r.lanes[h.Sum32()%workers]
	if !l.put(u) {
		r.log.Warn("not telling the registry, too much is waiting", zap.String("task_id", string(u.ID)))
	}
}

// Run sends until ctx ends, and then what is left within a short time.
func (r *Reporter) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range r.lanes {
		wg.Go(func() { r.work(ctx, l) })
	}
	wg.Wait()
}

func (r *Reporter) work(ctx context.Context, l *lane) {
	for ctx.Err() == nil {
		if u, ok := l.take(); ok {
			r.send(ctx, l, u)
			continue
		}
		select {
		case <-l.wake:
		case <-ctx.Done():
		}
	}
	r.flush(ctx, l)
}

func (r *Reporter) flush(ctx context.Context, l *lane) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
	defer cancel()
	for u, ok := l.take(); ok; u, ok = l.take() {
		if err := r.call(ctx, u); err != nil {
			r.log.Warn("telling the registry at the end", zap.String("task_id", string(u.ID)), zap.Error(err))
		}
	}
}

// send tries until the registry has taken or refused the update, something
// newer is there to be sent, or enough has been tried.
func (r *Reporter) send(ctx context.Context, l *lane, u Update) {
	log := r.log.With(zap.String("task_id", string(u.ID)), zap.Int64("epoch", u.Epoch))
	delay := firstDelay
	for attempt := 1; ; attempt++ {
		err := r.call(ctx, u)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			l.putBack(u) // for flush
			return
		}
		if !retriable(err) || attempt == mostAttempts {
			log.Warn("telling the registry", zap.String("reason", string(rpcerr.ReasonOf(err))), zap.Error(err))
			return
		}
		select {
		case <-time.After(delay):
			delay *= 2
		case <-ctx.Done():
			l.putBack(u)
			return
		}
		if newer, ok := l.newer(u.ID); ok {
			u = newer
		}
	}
}

// retriable tells an error that may pass from a refusal, such as STALE_EPOCH.
func retriable(err error) bool {
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
