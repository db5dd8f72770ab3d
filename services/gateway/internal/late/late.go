// Package late keeps the reports of clients that no scheduler could be given in
// time, and gives them later: the client has its answer already. What a report
// says is not known here. What is kept is bounded in number and in time, and
// none outlives the process:
//
//	Put --> waiting --taken--> forwarded, or refused by a scheduler
//	           └--not within Keep--> expired
//	           └--no room, Forget, the end--> dropped
package late

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/supernode-ha/supernode/services/gateway/internal/roster"
	"github.com/supernode-ha/supernode/services/gateway/internal/verdict"
)

const (
	// atOnce is how many are given at the same time: one scheduler that is slow
	// must not keep all others from hearing.
	atOnce = 8
	// A report is tried again after firstPause, then after twice as long each
	// time, up to lastPause.
	firstPause, lastPause = 250 * time.Millisecond, 4 * time.Second
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
	// Entries is how many reports are kept at most: the oldest goes first.
	Entries int
	// Keep is how long a report is kept.
	Keep time.Duration
}

// Report is what could not be told.
type Report struct {
	// Key is whose it is.
	Key roster.Key
	// Lasting is true when it is to be given even if the client has left.
	Lasting bool
	// Give makes one attempt.
	Give func(context.Context) error
}

// Queue is safe for concurrent use while Run runs.
type Queue struct {
	cfg     Config
	results *prometheus.CounterVec
	wake    chan struct{}

	mu      sync.Mutex // guards what follows, and the entries
	entries *list.List // of *entry, the oldest first
	ended   bool
}

type entry struct {
	Report
	until time.Time
	next  time.Time // it is not tried before that
	pause time.Duration
}

// New makes an empty queue.
func New(cfg Config, metrics prometheus.Registerer) (*Queue, error) {
	q := &Queue{cfg: cfg, wake: make(chan struct{}, 1), entries: list.New(), results: prometheus.NewCounterVec(prometheus.CounterOpts{
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
	return q.entries.Len()
}

// Put takes a report. It is false when the queue has ended: then the client has
// to be told that the report is lost.
func (q *Queue) Put(r Report) bool {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ended {
		return false
	}
	if q.entries.Len() >= q.cfg.Entries {
		q.remove(q.entries.Front(), dropped)
	}
	q.entries.PushBack(&entry{Report: r, until: now.Add(q.cfg.Keep), next: now.Add(firstPause), pause: firstPause})
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

// Forget drops what does not last of a client that has left. A scheduler that
// were told of it would take the client in again.
func (q *Queue) Forget(key roster.Key) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for el := q.entries.Front(); el != nil; {
		next := el.Next()
		if e := el.Value.(*entry); e.Key == key && !e.Lasting {
			q.remove(el, dropped)
		}
		el = next
	}
}

// remove takes an entry out, if it is there still. The caller holds mu.
func (q *Queue) remove(el *list.Element, result string) {
	before := q.entries.Len()
	q.entries.Remove(el)
	if q.entries.Len() < before {
		q.results.WithLabelValues(result).Inc()
	}
}

// Run gives reports until ctx ends, then each once more, and drops the rest.
func (q *Queue) Run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			q.end(context.WithoutCancel(ctx))
			return
		case <-q.wake:
		case <-timer.C:
		}
		q.try(ctx, q.due(time.Now()))
		if wait, any := q.untilNext(time.Now()); any {
			timer.Reset(wait)
		}
	}
}

func (q *Queue) end(ctx context.Context) {
	q.mu.Lock()
	q.ended = true
	q.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, lastWords)
	defer cancel()
	q.try(ctx, q.due(time.Now().Add(q.cfg.Keep)))
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.entries.Len() > 0 {
		q.remove(q.entries.Front(), dropped)
	}
}

// due are the entries that are to be tried at a time.
func (q *Queue) due(at time.Time) []*list.Element {
	q.mu.Lock()
	defer q.mu.Unlock()
	var list []*list.Element
	for el := q.entries.Front(); el != nil; el = el.Next() {
		if !el.Value.(*entry).next.After(at) {
			list = append(list, el)
		}
	}
	return list
}

// untilNext is how long until there is something to try.
func (q *Queue) untilNext(now time.Time) (wait time.Duration, any bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for el := q.entries.Front(); el != nil; el = el.Next() {
		if d := el.Value.(*entry).next.Sub(now); !any || d < wait {
			wait, any = d, true
		}
	}
	return max(wait, 0), any
}

// try makes one attempt at each and waits for all.
func (q *Queue) try(ctx context.Context, due []*list.Element) {
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, el := range due {
		if ctx.Err() != nil {
			break
		}
		e := el.Value.(*entry)
		group.Go(func() error {
			q.settle(el, e, e.Give(ctx))
			return nil
		})
	}
	_ = group.Wait() // no attempt returns an error
}

// settle notes how an attempt ended.
func (q *Queue) settle(el *list.Element, e *entry, err error) {
	now := time.Now()
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err == nil:
		q.remove(el, forwarded)
	case verdict.Report(err) != verdict.Later:
		q.remove(el, refused)
	case now.After(e.until):
		q.remove(el, expired)
	default:
		e.next = now.Add(e.pause)
		e.pause = min(2*e.pause, lastPause)
	}
}
