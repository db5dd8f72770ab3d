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

// subscriptions holds the open subscriptions by task.
type subscriptions struct {
	mu     sync.Mutex // guards byTask and the state of the subscriptions
	byTask map[string]*Subscription
}

// Subscription receives the changes of one task's record.
type Subscription struct {
	// C receives a value when there is a change for Take to return.
	C      chan struct{}
	r      *Resolver
	taskID string

	record *registryv1.TaskRecord // the latest one that Take has not returned
	gone   bool                   // the record no longer names this scheduler
}

// Subscribe delivers the changes of a task's record until the subscription is closed.
// There may be at most one subscription per task.
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

// Take returns the claim that follows c according to the latest change, or c if there
// is none. resolve is set if the registry has to be asked for the claim.
func (s *Subscription) Take(c Claim) (next Claim, resolve bool) {
	s.r.subscriptions.mu.Lock()
	record, gone := s.record, s.gone
	if c.Known() || gone {
		s.record, s.gone = nil, false
	} // otherwise the change is kept, and compared with the first claim
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

// claimFromRecord returns a claim with the CDN members that a record names. resolve is
// set if one of them is missing in this scheduler's list of members.
func (r *Resolver) claimFromRecord(record *registryv1.TaskRecord) (c Claim, resolve bool) {
	members := make(map[string]cluster.Member)
	for _, m := range r.CDNs() {
		members[m.ID] = m
	}
	owner, complete := members[record.GetOwner()]
	c = Claim{Epoch: record.GetEpoch(), Owner: owner, record: record}
	for _, id := range record.GetReplicas() {
		m, found := members[id]
		complete = complete && found
		c.Replicas = append(c.Replicas, m)
	}
	return c, !complete
}

// Watch delivers the changes of all records that name this scheduler to their
// subscriptions, until ctx ends.
func (r *Resolver) Watch(ctx context.Context) {
	backoff, warned := minBackoff, false
	for ctx.Err() == nil {
		received, err := r.watch(ctx)
		if received {
			backoff, warned = minBackoff, false
		}
		if ctx.Err() == nil && !warned {
			r.Log.Warn("the watch of task records has ended; opening it again", zap.Error(err))
			warned = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// watch opens the watch once and reads it until it ends. received reports whether it
// has delivered anything.
func (r *Resolver) watch(ctx context.Context) (received bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := r.Registry.WatchTasks(ctx, &registryv1.WatchTasksRequest{Role: cluster.Scheduler, MemberId: r.SelfID})
	if err != nil {
		return false, fmt.Errorf("watching task records: %w", err)
	}
	initial := make(map[string]struct{}) // the tasks of the initial list; nil once it is complete
	for {
		resp, err := stream.Recv()
		if err != nil {
			return received, fmt.Errorf("watching task records: %w", err)
		}
		received = true
		for _, record := range resp.GetRecords() {
			if initial != nil {
				initial[record.GetTaskId()] = struct{}{}
			}
			r.deliver(record.GetTaskId(), record)
		}
		for _, id := range resp.GetGone() {
			r.deliver(id, nil)
		}
		if resp.GetComplete() && initial != nil {
			r.deliverGone(initial)
			initial = nil
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

// deliverGone reports to all subscriptions whose tasks are not listed that their
// record no longer names this scheduler.
func (r *Resolver) deliverGone(listed map[string]struct{}) {
	r.subscriptions.mu.Lock()
	defer r.subscriptions.mu.Unlock()
	for id, s := range r.subscriptions.byTask {
		if _, ok := listed[id]; !ok {
			s.deliver(nil)
		}
	}
}

// deliver replaces the change that Take has not returned yet. A nil record means that
// the record no longer names this scheduler. The caller holds mu.
func (s *Subscription) deliver(record *registryv1.TaskRecord) {
	s.record, s.gone = record, record == nil
	select {
	case s.C <- struct{}{}:
	default:
	}
}
