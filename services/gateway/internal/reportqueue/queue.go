// Package reportqueue queues the reports of clients that could not be delivered
// to a scheduler in time, and sends them later. The client already has its
// answer. The content of a report is opaque to the queue.
//
// Invariants:
//
//   - The queue is bounded in number and in time, and kept in memory only.
//   - Every report ends in exactly one of the results forwarded, refused,
//     expired and dropped, which are counted.
//   - A report is sent by one attempt at a time and does not expire during the
//     attempt, except during the last attempts when Run ends.
//
// The states of a report:
//
//	Put --> waiting --back-off has passed--> in flight --delivered--> forwarded
//	         │  ^                             │  └--invalid--> refused
//	         │  └--------retryable error------┘
//	         └--Keep or KeepUnknown has passed--> expired
//
//	waiting or in flight --queue full, DropPeer, end of Run--> dropped
package reportqueue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
)

const (
	// maxConcurrent is the number of concurrent attempts. There are several, so
	// that a slow scheduler does not delay the reports to the others.
	maxConcurrent = 8
	// finalTimeout is how long the last attempts may take when Run ends.
	finalTimeout = time.Second
)

// The results of a report, as the metric labels them.
const (
	forwarded = "forwarded"
	refused   = "refused"
	expired   = "expired"
	dropped   = "dropped"
)

// Config holds the bounds of a queue. None may be 0.
type Config struct {
	// Entries limits the number of reports. If there are more, reports of unknown
	// peers are dropped first, then the oldest.
	Entries int
	// Keep is how long a report is kept. KeepUnknown is how long it is kept after
	// a scheduler has answered that it does not have the peer.
	Keep, KeepUnknown time.Duration
	// Attempt limits one attempt.
	Attempt time.Duration
}

// Report is a report that could not be delivered.
type Report struct {
	// Key identifies the task and the peer of the report.
	Key registrations.Key
	// KeepAfterDeparture is true for a report that is sent even if the client has
	// left. DropPeer does not drop it.
	KeepAfterDeparture bool
	// Send makes one attempt to deliver the report. It must not retry, because the
	// queue does.
	Send func(context.Context) error
}

// Queue holds undelivered reports and sends them while Run is running. It is safe
// for concurrent use.
type Queue struct {
	cfg     Config
	results *prometheus.CounterVec
	wake    chan struct{} // signals that the next report or its time has changed

	mu      sync.Mutex // guards the fields below and all entries
	pending pending
	ended   bool // Run has ended, and Put rejects reports
}

// New creates an empty queue and registers its metrics.
func New(cfg Config, metrics prometheus.Registerer) (*Queue, error) {
	q := &Queue{cfg: cfg, wake: make(chan struct{}, 1), results: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_gateway_late_reports_total",
		Help: "Reports that were acknowledged to a client before a scheduler had received them, by result.",
	}, []string{"result"})}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_gateway_late_reports_waiting", Help: "Reports that wait for a scheduler.",
	}, func() float64 { return float64(q.Len()) })
	for _, c := range []prometheus.Collector{q.results, waiting} {
		if err := metrics.Register(c); err != nil {
			return nil, fmt.Errorf("registering the report queue's metrics: %w", err)
		}
	}
	return q, nil
}

// Len returns the number of queued reports, including those in flight.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending.len()
}

// Put queues a report whose first attempt failed. The action is Retry or
// RetryBriefly. Put returns false if Run has ended. The report is lost then, and
// the caller must return an error to the client.
func (q *Queue) Put(r Report, action errmap.ReportAction) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return false
	}
	q.expire(now)
	e := &entry{Report: r, expires: now.Add(q.cfg.Keep)}
	q.pending.add(e, now)
	if action == errmap.RetryBriefly {
		q.pending.markUnknown(e, now.Add(q.cfg.KeepUnknown))
	}
	if q.pending.len() > q.cfg.Entries {
		q.remove(q.pending.victim(), dropped) // may be the new report, if its peer is unknown
	}
	q.notify()
	return true
}

// DropPeer drops the reports of a client that has left, except those with
// KeepAfterDeparture. If they were sent, the scheduler would list the client as a
// source of pieces again.
func (q *Queue) DropPeer(key registrations.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := range q.pending.all() {
		if e.Key == key && !e.KeepAfterDeparture {
			q.remove(e, dropped)
		}
	}
}

// Run sends reports until ctx ends. Then it makes one last attempt for each
// queued report, drops what remains, and returns when no attempt is running.
func (q *Queue) Run(ctx context.Context) {
	var attempts sync.WaitGroup
	// A free slot is acquired before a report is chosen. A report that was chosen
	// first could expire while it waits for the slot, or a more urgent one could
	// arrive.
	free := make(chan struct{}, maxConcurrent)
	for range maxConcurrent {
		free <- struct{}{}
	}
	for {
		select {
		case <-ctx.Done():
		case <-free:
		}
		e := q.next(ctx)
		if e == nil {
			break
		}
		attempts.Go(func() {
			q.attempt(ctx, e)
			free <- struct{}{}
		})
	}
	attempts.Wait()
	q.end(context.WithoutCancel(ctx))
}

// end makes the last attempts and drops what remains.
func (q *Queue) end(ctx context.Context) {
	q.mu.Lock()
	q.ended = true
	q.expire(time.Now())
	last := slices.Collect(q.pending.all())
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, finalTimeout)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(maxConcurrent)
	for _, e := range last {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			q.attempt(ctx, e)
			return nil
		})
	}
	_ = group.Wait() // the functions of the group return no error
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := range q.pending.all() {
		q.remove(e, dropped)
	}
}

// next waits until a report is due and returns it. It returns nil when ctx ends.
func (q *Queue) next(ctx context.Context) *entry {
	for ctx.Err() == nil {
		e, wait := q.take(time.Now())
		if e != nil {
			return e
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-q.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
	return nil
}

// take returns the report that is due, or the time until one may be due.
func (q *Queue) take(now time.Time) (*entry, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expire(now)
	return q.pending.take(now, q.cfg.Keep)
}

// attempt sends a report once and records the result.
func (q *Queue) attempt(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Attempt)
	defer cancel()
	q.finish(e, e.Send(ctx))
}

// finish records the result of an attempt.
func (q *Queue) finish(e *entry, err error) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !e.isPending() {
		return // dropped during the attempt
	}
	if err == nil {
		q.remove(e, forwarded)
		return
	}
	switch errmap.ForReport(err) {
	case errmap.Retry:
	case errmap.RetryBriefly:
		q.pending.markUnknown(e, now.Add(q.cfg.KeepUnknown))
	default:
		q.remove(e, refused)
		return
	}
	q.pending.reschedule(e, now)
	q.expire(now)
	q.notify()
}

// expire removes the expired reports. The caller holds mu.
func (q *Queue) expire(now time.Time) {
	for _, e := range q.pending.expired(now) {
		q.remove(e, expired)
	}
}

// remove removes a queued report and counts its result. The caller holds mu.
func (q *Queue) remove(e *entry, result string) {
	q.pending.remove(e)
	q.results.WithLabelValues(result).Inc()
}

// notify makes next reconsider which report is due.
func (q *Queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
