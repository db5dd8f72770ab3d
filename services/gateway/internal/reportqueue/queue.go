// Package reportqueue keeps the reports of clients that no scheduler could be given in
// time, and gives them later: the client has its answer already. What a report
// says is not known here. What is kept is bounded in number and in time, and
// none outlives the process:
//
//	Put --> waiting --taken--> forwarded, or refused by a scheduler
//	           ├--not in time--> expired
//	           └--no room, DropPeer, the end--> dropped
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
	// maxConcurrent is how many are given at the same time, so that one scheduler that
	// is slow does not keep the others from hearing.
	maxConcurrent = 8
	// finalTimeout is how long the last attempts may take, when the queue ends.
	finalTimeout = time.Second
)

// What became of a report.
const (
	forwarded = "forwarded"
	refused   = "refused"
	expired   = "expired"
	dropped   = "dropped"
)

// Config is the bounds; none may be 0.
type Config struct {
	// Entries is how many reports are kept at most. Those of strangers go first,
	// then the oldest.
	Entries int
	// Keep is how long a report is kept, and KeepUnknown for how long from
	// when a scheduler has said that it does not know whose it is.
	Keep, KeepUnknown time.Duration
	// Attempt is how long one attempt may take.
	Attempt time.Duration
}

// Report is what could not be told.
type Report struct {
	// Key is whose it is.
	Key registrations.Key
	// KeepAfterDeparture is true when it is to be given even if the client has left.
	KeepAfterDeparture bool
	// Send makes one attempt and does not repeat it: that is done here.
	Send func(context.Context) error
}

// Queue is safe for concurrent use while Run runs.
type Queue struct {
	cfg     Config
	results *prometheus.CounterVec
	wake    chan struct{} // there is something new to wait for

	mu      sync.Mutex // guards what follows, and the entries
	pending pending
	ended   bool
}

// New makes an empty queue.
func New(cfg Config, metrics prometheus.Registerer) (*Queue, error) {
	q := &Queue{cfg: cfg, wake: make(chan struct{}, 1), results: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_gateway_late_reports_total",
		Help: "Reports that were taken from a client before a scheduler had them, by what became of them.",
	}, []string{"result"})}
	waiting := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_gateway_late_reports_waiting", Help: "Reports that wait for a scheduler.",
	}, func() float64 { return float64(q.Len()) })
	for _, c := range []prometheus.Collector{q.results, waiting} {
		if err := metrics.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of late reports: %w", err)
		}
	}
	return q, nil
}

// Len is how many reports wait.
func (q *Queue) Len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending.len()
}

// Put takes a report whose first attempt ended with an action, which is Retry or
// RetryBriefly. It is false when the queue has ended: then the client has to be told
// that the report is lost.
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
		q.remove(q.pending.victim(), dropped) // a stranger's may be the very one
	}
	q.notify()
	return true
}

// DropPeer drops what does not last of a client that has left. A scheduler that
// were told of it would take the client in again.
func (q *Queue) DropPeer(key registrations.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := range q.pending.all() {
		if e.Key == key && !e.KeepAfterDeparture {
			q.remove(e, dropped)
		}
	}
}

// Run gives reports until ctx ends, then each once more, and drops the rest. It
// returns when no attempt is under way any more.
func (q *Queue) Run(ctx context.Context) {
	var attempts sync.WaitGroup
	// Whoever gives a report is found before the report is: it might be too old
	// by then, or another one be more urgent.
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
	_ = group.Wait() // no attempt returns an error
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := range q.pending.all() {
		q.remove(e, dropped)
	}
}

// next waits for the next report that is to be tried, and gives nil when ctx
// ends.
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

func (q *Queue) take(now time.Time) (*entry, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.expire(now)
	return q.pending.take(now, q.cfg.Keep)
}

func (q *Queue) attempt(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Attempt)
	defer cancel()
	q.finish(e, e.Send(ctx))
}

// finish notes how an attempt ended.
func (q *Queue) finish(e *entry, err error) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !e.isPending() {
		return // it was dropped meanwhile
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

// expire drops what has waited for too long. The caller holds mu.
func (q *Queue) expire(now time.Time) {
	for _, e := range q.pending.expired(now) {
		q.remove(e, expired)
	}
}

// remove takes out an entry that waits. The caller holds mu.
func (q *Queue) remove(e *entry, result string) {
	q.pending.remove(e)
	q.results.WithLabelValues(result).Inc()
}

// notify has Run look again at what it waits for.
func (q *Queue) notify() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
