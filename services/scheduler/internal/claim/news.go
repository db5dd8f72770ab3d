package claim

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

const (
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
)

// news is who wants to hear of which task.
type news struct {
	mu sync.Mutex // guards of and what the subscriptions hold
	of map[string]*Subscription
}

// Subscription is what is heard of one task.
type Subscription struct {
	// C says that there is something.
	C      chan struct{}
	r      *Resolver
	taskID string

	record *registryv1.TaskRecord // the latest that was not taken yet
	gone   bool                   // the record does not name this scheduler any more
}

// Subscribe hears of a task until the subscription is closed. There may be one
// a task.
func (r *Resolver) Subscribe(taskID string) *Subscription {
	s := &Subscription{C: make(chan struct{}, 1), r: r, taskID: taskID}
	r.news.mu.Lock()
	defer r.news.mu.Unlock()
	r.news.of[taskID] = s
	return s
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.r.news.mu.Lock()
	defer s.r.news.mu.Unlock()
	if s.r.news.of[s.taskID] == s {
		delete(s.r.news.of, s.taskID)
	}
}

// Take gives what became of a claim. Ask says that the registry has to be asked.
func (s *Subscription) Take(c Claim) (next Claim, ask bool) {
	s.r.news.mu.Lock()
	record, gone := s.record, s.gone
	if c.Known() || gone {
		s.record, s.gone = nil, false
	} // else it is news to the first claim as well
	s.r.news.mu.Unlock()
	switch {
	case gone:
		return c, true
	case record == nil || !c.Known():
		return c, false
	case record.GetScheduler() != s.r.SelfID || record.GetEpoch() < c.Epoch:
		return c, true
	case record.GetEpoch() == c.Epoch && record.GetRevision() == c.record.GetRevision():
		return c, false
	}
	return s.r.seen(record)
}

// seen makes a claim of a record with the members that are known here.
func (r *Resolver) seen(record *registryv1.TaskRecord) (c Claim, ask bool) {
	members := make(map[string]cluster.Member)
	for _, m := range r.CDNs() {
		members[m.ID] = m
	}
	owner, there := members[record.GetOwner()]
	c = Claim{Epoch: record.GetEpoch(), Owner: owner, record: record}
	for _, id := range record.GetReplicas() {
		m, known := members[id]
		there = there && known
		c.Replicas = append(c.Replicas, m)
	}
	return c, !there
}

// Watch hears of all records that name this scheduler, until ctx ends.
func (r *Resolver) Watch(ctx context.Context) {
	pause, warned := firstPause, false
	for ctx.Err() == nil {
		told, err := r.watch(ctx)
		if told {
			pause, warned = firstPause, false
		}
		if ctx.Err() == nil && !warned {
			r.Log.Warn("lost the stream of task records; trying on", zap.Error(err))
			warned = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, lastPause)
	}
}

func (r *Resolver) watch(ctx context.Context) (told bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.Registry.WatchTasks(ctx, &registryv1.WatchTasksRequest{Role: cluster.Scheduler, MemberId: r.SelfID})
	if err != nil {
		return false, fmt.Errorf("watching tasks: %w", err)
	}
	first := make(map[string]struct{}) // the tasks of the first telling, nil behind it
	for {
		resp, err := stream.Recv()
		if err != nil {
			return told, fmt.Errorf("watching tasks: %w", err)
		}
		told = true
		for _, record := range resp.GetRecords() {
			if first != nil {
				first[record.GetTaskId()] = struct{}{}
			}
			r.tell(record.GetTaskId(), record)
		}
		for _, id := range resp.GetGone() {
			r.tell(id, nil)
		}
		if resp.GetComplete() && first != nil {
			r.tellOthers(first)
			first = nil
		}
	}
}

func (r *Resolver) tell(taskID string, record *registryv1.TaskRecord) {
	r.news.mu.Lock()
	defer r.news.mu.Unlock()
	if s := r.news.of[taskID]; s != nil {
		s.hear(record)
	}
}

// tellOthers tells those whose tasks were not among the first that they are gone.
func (r *Resolver) tellOthers(named map[string]struct{}) {
	r.news.mu.Lock()
	defer r.news.mu.Unlock()
	for id, s := range r.news.of {
		if _, is := named[id]; !is {
			s.hear(nil)
		}
	}
}

func (s *Subscription) hear(record *registryv1.TaskRecord) {
	s.record, s.gone = record, record == nil
	select {
	case s.C <- struct{}{}:
	default:
	}
}
