package resolver

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
	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
)

// subscriptions is who wants to hear of which task.
type subscriptions struct {
	mu     sync.Mutex // guards byTask and what the subscriptions hold
	byTask map[string]*Subscription
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
	r.subscriptions.mu.Lock()
	defer r.subscriptions.mu.Unlock()
	r.subscriptions.byTask[taskID] = s
	return s
}

// Close ends the subscription.
func (s *Subscription) Close() {
	s.r.subscriptions.mu.Lock()
	defer s.r.subscriptions.mu.Unlock()
	if s.r.subscriptions.byTask[s.taskID] == s {
		delete(s.r.subscriptions.byTask, s.taskID)
	}
}

// Take gives what became of a claim. Ask says that the registry has to be asked.
func (s *Subscription) Take(c Claim) (next Claim, ask bool) {
	s.r.subscriptions.mu.Lock()
	record, gone := s.record, s.gone
	if c.Known() || gone {
		s.record, s.gone = nil, false
	} // else it is news to the first claim as well
	s.r.subscriptions.mu.Unlock()
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
	return s.r.claimFromRecord(record)
}

// claimFromRecord makes a claim of a record with the members that are known here.
func (r *Resolver) claimFromRecord(record *registryv1.TaskRecord) (c Claim, ask bool) {
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
	backoff, warned := minBackoff, false
	for ctx.Err() == nil {
		told, err := r.watch(ctx)
		if told {
			backoff, warned = minBackoff, false
		}
		if ctx.Err() == nil && !warned {
			r.Log.Warn("lost the stream of task records; trying on", zap.Error(err))
			warned = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
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
			r.deliver(record.GetTaskId(), record)
		}
		for _, id := range resp.GetGone() {
			r.deliver(id, nil)
		}
		if resp.GetComplete() && first != nil {
			r.deliverGone(first)
			first = nil
		}
	}
}

func (r *Resolver) deliver(taskID string, record *registryv1.TaskRecord) {
	r.subscriptions.mu.Lock()
	defer r.subscriptions.mu.Unlock()
	if s := r.subscriptions.byTask[taskID]; s != nil {
		s.deliver(record)
	}
}

// deliverGone tells those whose tasks were not among the first that they are gone.
func (r *Resolver) deliverGone(named map[string]struct{}) {
	r.subscriptions.mu.Lock()
	defer r.subscriptions.mu.Unlock()
	for id, s := range r.subscriptions.byTask {
		if _, is := named[id]; !is {
			s.deliver(nil)
		}
	}
}

func (s *Subscription) deliver(record *registryv1.TaskRecord) {
	s.record, s.gone = record, record == nil
	select {
	case s.C <- struct{}{}:
	default:
	}
}
