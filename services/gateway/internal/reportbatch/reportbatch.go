// Package reportbatch sends the reports of pieces that go to one scheduler in
// batches. Half of the calls of a download are such reports, and each that goes to
// another process alone costs as much for gRPC as for all else.
//
// It is a decorator of connections: a caller makes a call of ReportPiece and gets
// the answer to its own report. The first report is sent at once. Those that come
// until it is answered, and for a moment after that, make the next batch, so a batch
// is the larger the busier the scheduler is.
//
//	idle --a report--> sending --answered--> gathering --gatherTime, reports--> sending
//	 ^                                            |
//	 +------------------- no report --------------+
//
// Invariants:
//
//   - A report is in one batch, and its caller waits for it no longer than for its
//     own context.
//   - Only connections to other processes are decorated: within a process a call
//     costs less than a batch.
//   - A scheduler that has no ReportPieces, or does not have the task in memory, gets
//     the report by ReportPiece.
package reportbatch

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

const (
	// gatherTime is the pause after a batch in which the next one gathers.
	gatherTime = 2 * time.Millisecond
	// maxReports is the maximum number of reports in one batch.
	maxReports = 500
	// sendTimeout bounds one batch. Callers wait for a report no longer than that.
	sendTimeout = 2500 * time.Millisecond
	// maxEndpoints bounds the number of schedulers with a queue.
	maxEndpoints = 1024
)

// Dial returns the connection to an endpoint.
type Dial func(endpoint string) (grpc.ClientConnInterface, error)

// Batcher gathers the reports to every scheduler. Close must follow.
type Batcher struct {
	dial   Dial
	queues *lru.Cache[string, *queue] // by endpoint

	ctx    context.Context // of the batches
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu     sync.Mutex // guards closed, and that work grows only without it
	closed bool
}

// New returns a batcher of the connections that dial returns.
func New(dial Dial) (*Batcher, error) {
	queues, err := lru.New[string, *queue](maxEndpoints)
	if err != nil {
		return nil, fmt.Errorf("creating the queues of reports: %w", err)
	}
	b := &Batcher{dial: dial, queues: queues}
	b.ctx, b.cancel = context.WithCancel(context.Background())
	return b, nil
}

// Close ends the batches that are being sent and waits for that. Reports that come
// afterwards are sent one by one.
func (b *Batcher) Close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
	b.cancel()
	b.work.Wait()
}

// begin runs f on a goroutine of its own, unless the batcher is closed.
func (b *Batcher) begin(f func()) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return false
	}
	b.work.Go(f)
	return true
}

// Dial returns the connection to an endpoint, decorated if it leads to another
// process.
func (b *Batcher) Dial(endpoint string) (grpc.ClientConnInterface, error) {
	conn, err := b.dial(endpoint)
	if err != nil {
		return nil, err
	}
	remote, isRemote := conn.(*grpc.ClientConn)
	if !isRemote {
		return conn, nil
	}
	q, found := b.queues.Get(endpoint)
	if !found {
		q = &queue{batcher: b}
		if other, exists, _ := b.queues.PeekOrAdd(endpoint, q); exists {
			q = other
		}
	}
	return connection{remote, q}, nil
}

// connection is a connection whose reports go through a queue.
type connection struct {
	*grpc.ClientConn
	queue *queue
}

// Invoke makes a call.
func (c connection) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	report, isReport := args.(*schedulerv1.ReportPieceRequest)
	if !isReport {
		return c.ClientConn.Invoke(ctx, method, args, reply, opts...)
	}
	r := &waitingReport{conn: c.ClientConn, request: report, ctx: ctx, done: make(chan error, 1)}
	c.queue.add(r)
	select {
	case err := <-r.done:
		if errors.Is(err, errUnhandled) {
			return c.ClientConn.Invoke(ctx, method, args, reply, opts...)
		}
		return err
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

// errUnhandled is the result of a report that has to be sent alone.
var errUnhandled = errors.New("the report was not handled in a batch")

// waitingReport is a report whose caller waits.
type waitingReport struct {
	conn    *grpc.ClientConn
	request *schedulerv1.ReportPieceRequest
	ctx     context.Context
	done    chan error // buffered: there is at most one result
}

// queue has the reports to one scheduler.
type queue struct {
	batcher *Batcher

	mu      sync.Mutex // guards what follows
	waiting []*waitingReport
	busy    bool // send runs
}

// add adds a report, and starts to send if nothing is being sent.
func (q *queue) add(r *waitingReport) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.busy && !q.batcher.begin(q.send) {
		r.done <- errUnhandled
		return
	}
	q.busy = true
	q.waiting = append(q.waiting, r)
}

// send sends batches until no report is waiting.
func (q *queue) send() {
	pause := time.NewTimer(0)
	defer pause.Stop()
	for first := true; ; first = false {
		if !first {
			pause.Reset(gatherTime)
		}
		<-pause.C
		batch := q.next()
		if len(batch) == 0 {
			return
		}
		q.deliver(batch)
	}
}

// next takes the next batch. If there is none, the queue is idle.
func (q *queue) next() []*waitingReport {
	q.mu.Lock()
	defer q.mu.Unlock()
	var batch []*waitingReport
	for len(q.waiting) > 0 && len(batch) < maxReports {
		if r := q.waiting[0]; r.ctx.Err() == nil { // else its caller has gone
			batch = append(batch, r)
		}
		q.waiting[0] = nil
		q.waiting = q.waiting[1:]
	}
	q.busy = len(batch) > 0
	if !q.busy {
		q.waiting = nil
	}
	return batch
}

// deliver sends a batch and gives each report its result.
func (q *queue) deliver(batch []*waitingReport) {
	conn := batch[len(batch)-1].conn // the newest one
	ctx, cancel := context.WithTimeout(q.batcher.ctx, sendTimeout)
	defer cancel()
	req := &schedulerv1.ReportPiecesRequest{Reports: make([]*schedulerv1.ReportPieceRequest, len(batch))}
	for i, r := range batch {
		req.Reports[i] = r.request
	}
	resp, err := schedulerv1.NewSchedulerServiceClient(conn).ReportPieces(ctx, req)
	if status.Code(err) == codes.Unimplemented {
		err = errUnhandled
	}
	results := make([]error, len(batch))
	for i := range results {
		results[i] = err
	}
	if err == nil {
		fill(results, resp)
	}
	for i, r := range batch {
		r.done <- results[i]
	}
}

// fill sets the results of the reports that were not applied.
func fill(results []error, resp *schedulerv1.ReportPiecesResponse) {
	for _, i := range resp.GetUnhandled() {
		if i >= 0 && int(i) < len(results) {
			results[i] = errUnhandled
		}
	}
	for _, f := range resp.GetFailures() {
		if i := f.GetIndex(); i >= 0 && int(i) < len(results) {
			e := rpcerr.New(codes.Code(f.GetCode()), rpcerr.Reason(f.GetReason()), "%s", f.GetText())
			e.Metadata = f.GetMetadata()
			results[i] = rpcerr.Status(e).Err()
		}
	}
}
