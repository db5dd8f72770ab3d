// Package late keeps the reports of clients that no scheduler could be given in
// time, and gives them later: the client has its answer already. What a report
// says is not known here. What is kept is bounded in number and in time, and
// none outlives the process:
//
//	Put --> waiting --taken--> forwarded, or refused by a scheduler
//	           ├--not in time--> expired
//	           └--no room, Forget, the end--> dropped
package late

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/services/gateway/internal/roster"
	"github.com/supernode-ha/supernode/services/gateway/internal/verdict"
)

const (
	// atOnce is how many are given at the same time, so that one scheduler that
	// is slow does not keep the others from hearing.
	atOnce = 8
	// lastWords is how long the last attempts may take, when the queue ends.
	lastWords = time.Second
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
	// Keep is how long a report is kept, and KeepStrangers for how long from
	// when a scheduler has said that it does not know whose it is.
	Keep, KeepStrangers time.Duration
	// Attempt is how long one attempt may take.
	Attempt time.Duration
}

// Report is what could not be told.
type Report struct {
	// Key is whose it is.
	Key roster.Key
	// Lasting is true when it is to be given even if the client has left.
	Lasting bool
	// Give makes one attempt and does not repeat it: that is done here.
	Give func(context.Context) error
}

// Queue is safe for concurrent use while Run runs.
type Queue struct {
	cfg     Config
	results *prometheus.CounterVec
	wake    chan struct{} // there is something new to wait for

	mu      sync.Mutex // guards what follows, and the entries
	waiting waiting
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
	}, func() float64 { return float64(q.Waiting()) })
	for _, c := range []prometheus.Collector{q.results, waiting} {
		if err := metrics.Register(c); err != nil {
			return nil, fmt.Errorf("registering the metrics of late reports: %w", err)
		}
	}
	return q, nil
}

// Waiting is how many reports wait.
func (q *Queue) Waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.waiting.len()
}

// Put takes a report whose first attempt ended with a fate, which is Later or
// Soon. It is false when the queue has ended: then the client has to be told
// that the report is lost.
func (q *Queue) Put(r Report, fate verdict.Fate) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return false
	}
	q.expire(now)
	e := &entry{Report: r, until: now.Add(q.cfg.Keep)}
	q.waiting.add(e, now)
	if fate == verdict.Soon {
		q.waiting.doubt(e, now.Add(q.cfg.KeepStrangers))
	}
	if q.waiting.len() > q.cfg.Entries {
		q.remove(q.waiting.leastWorth(), dropped) // a stranger's may be the very one
	}
	q.news()
	return true
}

// Forget drops what does not last of a client that has left. A scheduler that
// were told of it would take the client in again.
func (q *Queue) Forget(key roster.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for e := range q.waiting.all() {
		if e.Key == key && !e.Lasting {
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
	free := make(chan struct{}, atOnce)
	for range atOnce {
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
	last := slices.Collect(q.waiting.all())
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	var group errgroup.Group
	group.SetLimit(atOnce)
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
	for e := range q.waiting.all() {
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
	return q.waiting.take(now, q.cfg.Keep)
}

func (q *Queue) attempt(ctx context.Context, e *entry) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Attempt)
	defer cancel()
	q.settle(e, e.Give(ctx))
}

// settle notes how an attempt ended.
func (q *Queue) settle(e *entry, err error) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if !e.waits() {
		return // it was dropped meanwhile
	}
	if err == nil {
		q.remove(e, forwarded)
		return
	}
	switch verdict.Report(err) {
	case verdict.Later:
	case verdict.Soon:
		q.waiting.doubt(e, now.Add(q.cfg.KeepStrangers))
	default:
		q.remove(e, refused)
		return
	}
	q.waiting.again(e, now)
	q.expire(now)
	q.news()
}

// expire drops what has waited for too long. The caller holds mu.
func (q *Queue) expire(now time.Time) {
	for _, e := range q.waiting.overdue(now) {
		q.remove(e, expired)
	}
}

// remove takes out an entry that waits. The caller holds mu.
func (q *Queue) remove(e *entry, result string) {
	q.waiting.remove(e)
	q.results.WithLabelValues(result).Inc()
}

// news has Run look again at what it waits for.
func (q *Queue) news() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
