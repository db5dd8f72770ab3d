package tasks

import (
	"context"
	"errors"
	"time"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// resolveTimeout bounds the time that a resolution waits for the store. After it the
// answer is unclaimed. A client waits for 5 s in total, and the resolution is only a
// part of its call.
const resolveTimeout = 1200 * time.Millisecond

// Resolved holds a record and the members that it names.
type Resolved struct {
	Task      record.Task
	Owner     *record.Member // nil if it is not a member
	Scheduler *record.Member // nil if it is not a member
	// Replicas are those that are members.
	Replicas []record.Member
	// Unclaimed is set if the store was not available.
	Unclaimed bool
}

// Resolve returns the record of a task, after claiming the task, or replacing its
// lost owner or scheduler, if necessary. If the cache shows that nothing has to
// change, Resolve does not use the store. If the store is unavailable or does not
// answer in time, the change is made in the answer only, which is then unclaimed.
func (t *Tasks) Resolve(ctx context.Context, id string, req ownership.Resolve) (Resolved, error) {
	cur, _, known := t.Cache.Task(id)
	if known {
		step, err := ownership.Next(cur, t.cachedCluster(), req)
		if err == nil && !step.Changed {
			return resolved(cur, t.Cache.Member), nil
		}
	}
	bounded, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	task, state, err := t.change(bounded, id, req)
	if err == nil {
		return resolved(task, t.memberOf(state)), nil
	}
	timedOut := errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
	if !isUnavailable(err) && !timedOut {
		return Resolved{}, err
	}
	return t.unclaimed(id, req, err)
}

// memberOf returns a function that finds the members in a state. While the store is
// young, members of the former store are found in the cache.
func (t *Tasks) memberOf(state etcdstore.State) func(record.MemberKey) (record.Member, bool) {
	return func(key record.MemberKey) (record.Member, bool) {
		m, ok := state.Members[key]
		if !ok && state.Young {
			return t.Cache.Member(key)
		}
		return m, ok
	}
}

// unclaimed returns an answer from the cache while the store is unavailable. It
// returns cause, the error of the store, if the cache has no content yet.
func (t *Tasks) unclaimed(id string, req ownership.Resolve, cause error) (Resolved, error) {
	if era, _ := t.Cache.Position(); era == "" {
		return Resolved{}, cause
	}
	cur, _, known := t.Cache.Task(id)
	if !known {
		cur = record.Task{ID: id}
	}
	task, err := ownership.Propose(cur, t.cachedCluster(), req)
	if err != nil {
		return Resolved{}, err
	}
	t.Metrics.Unclaimed.Inc()
	r := resolved(task, t.Cache.Member)
	r.Unclaimed = true
	return r, nil
}

// resolved returns a record with its members, which member finds.
func resolved(task record.Task, member func(record.MemberKey) (record.Member, bool)) Resolved {
	r := Resolved{Task: task}
	if m, ok := member(task.OwnerKey()); ok {
		r.Owner = &m
	}
	if m, ok := member(task.SchedulerKey()); ok {
		r.Scheduler = &m
	}
	for _, id := range task.Replicas {
		if m, ok := member(record.MemberKey{Role: record.RoleCDN, ID: id}); ok {
			r.Replicas = append(r.Replicas, m)
		}
	}
	return r
}
