package tasks

import (
	"context"

	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Wish is who asks for a task.
type Wish struct {
	ID        string
	URL       string // stripped; may be empty when a record exists
	Scheduler string // the scheduler member that asks
}

// Resolved is a record and the members that it names.
type Resolved struct {
	Task      record.Task
	Owner     record.Member
	Scheduler *record.Member // nil when it is no member
}

// Resolve gives the record of a task, after claiming what nobody holds; only
// for a scheduler that is a member, else the error has reason NO_SCHEDULER. A
// record whose owner and scheduler the copy shows alive is answered without
// etcd, and so is one that etcd cannot be asked about.
func (t *Tasks) Resolve(ctx context.Context, w Wish) (Resolved, error) {
	known := newFacts(t.view)
	cur, inCopy := t.view.Task(w.ID)
	if !inCopy {
		cur = record.Task{ID: w.ID}
	}
	for round := range maxRounds {
		if !known.orphaned(cur, w) {
			return known.resolved(cur), nil
		}
		swap, err := known.claim(cur, w)
		if rpcerr.ReasonOf(err) == rpcerr.NoCDN && !known.listed {
			// One that just started may not be in the copy yet.
			members, listErr := t.store.Members(ctx, record.RoleCDN)
			if listErr != nil {
				return t.fromCopy(w, listErr)
			}
			known.learnCDNs(members)
			continue
		}
		if err != nil {
			return Resolved{}, err
		}
		out, err := t.store.Swap(ctx, swap)
		if err != nil {
			return t.fromCopy(w, err)
		}
		known.learn(out.Members)
		if out.Won {
			t.claimed(cur, out.Task)
			return known.resolved(out.Task), nil
		}
		if out.Task.Revision == cur.Revision && known.refuses(cur, w) {
			return Resolved{}, rpcerr.New(codes.FailedPrecondition, rpcerr.NoScheduler, "scheduler %s is no member of the cluster", w.Scheduler)
		}
		cur = out.Task
		if err := t.pause(ctx, round); err != nil {
			return Resolved{}, err
		}
	}
	return Resolved{}, tooMany()
}

// fromCopy answers what the copy has when etcd is away. A task whose owner is
// no member any more has nobody who could serve it, so the error stands.
func (t *Tasks) fromCopy(w Wish, err error) (Resolved, error) {
	known := newFacts(t.view)
	cur, ok := t.view.Task(w.ID)
	if !ok || !isUnavailable(err) || known.member(cur.OwnerKey()) == nil {
		return Resolved{}, err
	}
	return known.resolved(cur), nil
}

// orphaned tells whether a part of the record is nobody's. A task that the one
// who asks already has stays its own, whether its heartbeat has been seen or not.
func (f *facts) orphaned(cur record.Task, w Wish) bool {
	return f.lostOwner(cur) || f.lostScheduler(cur, w)
}

func (f *facts) lostOwner(cur record.Task) bool {
	return cur.Owner == "" || f.member(cur.OwnerKey()) == nil
}

func (f *facts) lostScheduler(cur record.Task, w Wish) bool {
	return cur.Scheduler == "" || cur.Scheduler != w.Scheduler && f.member(cur.SchedulerKey()) == nil
}

// refuses tells, of a claim that was lost though the record had not changed,
// whether it was for want of the one who asks: by what that same transaction
// told, the task would be its own, and it is no member.
func (f *facts) refuses(cur record.Task, w Wish) bool {
	member, told := f.told[record.MemberKey{Role: record.RoleScheduler, ID: w.Scheduler}]
	its := cur.Scheduler == w.Scheduler && f.lostOwner(cur) || f.lostScheduler(cur, w)
	return its && told && member == nil
}

// claim gives the record that should follow an orphaned one, with the
// conditions that make it right: whoever loses something is gone for etcd too,
// whoever gets something is there.
func (f *facts) claim(cur record.Task, w Wish) (etcdstore.Swap, error) {
	swap := etcdstore.Swap{Task: cur, Kind: metrics.WriteTaskClaim}
	next := &swap.Task
	next.Epoch++
	if f.lostOwner(cur) {
		owner, ok := place(w.ID, f.readyCDNs())
		if !ok {
			return swap, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN takes new tasks")
		}
		if cur.Owner != "" {
			swap.Gone = append(swap.Gone, cur.OwnerKey())
		}
		// Pieces of another owner's fetch may be cut from another version.
		next.Owner, next.Status, next.Source, next.PieceSize = owner, record.StatusWaiting, nil, 0
		swap.There = append(swap.There, next.OwnerKey())
	} else {
		swap.There = append(swap.There, cur.OwnerKey())
	}
	if f.lostScheduler(cur, w) {
		if cur.Scheduler != "" {
			swap.Gone = append(swap.Gone, cur.SchedulerKey())
		}
		next.Scheduler = w.Scheduler
	}
	if next.Scheduler == w.Scheduler {
		// Whoever asks next would take the task from one that is no member.
		swap.There = append(swap.There, next.SchedulerKey())
	}
	if next.URL == "" {
		next.URL = w.URL
	}
	if next.URL == "" {
		return swap, rpcerr.Invalid("the task has no record, and none can be made without url")
	}
	return swap, nil
}

func (f *facts) resolved(task record.Task) Resolved {
	r := Resolved{Task: task, Scheduler: f.member(task.SchedulerKey())}
	if owner := f.member(task.OwnerKey()); owner != nil {
		r.Owner = *owner
	}
	return r
}

// claimed counts and tells what a claim changed.
func (t *Tasks) claimed(before, after record.Task) {
	fields := []zap.Field{
		zap.String("task_id", after.ID), zap.Int64("epoch", after.Epoch),
		zap.String("cdn_id", after.Owner), zap.String("scheduler_id", after.Scheduler),
	}
	if before.Owner == "" {
		t.metrics.Claims.WithLabelValues(metrics.ClaimNew).Inc()
		t.log.Debug("task claimed", fields...)
		return
	}
	if before.Owner != after.Owner {
		t.metrics.Claims.WithLabelValues(metrics.ClaimOwner).Inc()
		t.log.Info("task has another owner", append(fields, zap.String("lost_cdn_id", before.Owner))...)
	}
	if before.Scheduler != after.Scheduler {
		t.metrics.Claims.WithLabelValues(metrics.ClaimScheduler).Inc()
		t.log.Info("task has another scheduler", append(fields, zap.String("lost_scheduler_id", before.Scheduler))...)
	}
}
