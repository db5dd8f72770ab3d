package tasks

import (
	"context"
	"errors"
	"time"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// patience is how long a resolution waits for the store in all. A client gives
// five seconds for everything, and what is answered without the store is
// better than nothing.
const patience = 1200 * time.Millisecond

// Resolved is a record and the members that it names.
type Resolved struct {
	Task      record.Task
	Owner     *record.Member // nil when it is no member
	Scheduler *record.Member // nil when it is no member
	Replicas  []record.Member
	// Unclaimed says that the store could not be asked.
	Unclaimed bool
}

// Resolve gives the record of a task, after claiming what nobody holds. A
// record that the copy shows to be right is answered without the store. When
// the store cannot be reached, the change is made in memory only.
func (t *Tasks) Resolve(ctx context.Context, id string, req ownership.Resolve) (Resolved, error) {
	cur, _, known := t.Cache.Task(id)
	if known {
		step, err := ownership.Next(cur, t.copied(), req)
		if err == nil && !step.Changed {
			return resolved(cur, t.Cache.Member), nil
		}
	}
	// Not from a deadline of its own alone: the caller's may be shorter.
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	task, scene, err := t.change(asking, id, req)
	if err == nil {
		return resolved(task, t.memberIn(scene)), nil
	}
	slow := errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil
	if !isUnavailable(err) && !slow {
		return Resolved{}, err
	}
	return t.unclaimed(id, req, err)
}

// memberIn looks members up in a scene. A young store may not have those yet
// that the copy expects.
func (t *Tasks) memberIn(scene etcdstore.State) func(record.MemberKey) (record.Member, bool) {
	return func(key record.MemberKey) (record.Member, bool) {
		m, ok := scene.Members[key]
		if !ok && scene.Young {
			return t.Cache.Member(key)
		}
		return m, ok
	}
}

// unclaimed answers what the copy has while the store is away. Before there is
// a copy nothing is known at all, and the store's error stands.
func (t *Tasks) unclaimed(id string, req ownership.Resolve, away error) (Resolved, error) {
	if era, _ := t.Cache.Position(); era == "" {
		return Resolved{}, away
	}
	cur, _, known := t.Cache.Task(id)
	if !known {
		cur = record.Task{ID: id}
	}
	task, err := ownership.Propose(cur, t.copied(), req)
	if err != nil {
		return Resolved{}, err
	}
	t.Metrics.Unclaimed.Inc()
	r := resolved(task, t.Cache.Member)
	r.Unclaimed = true
	return r, nil
}

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
