package etcdstore

import (
	"context"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/view"
	"github.com/supernode-ha/supernode/services/registry/internal/wire"
)

// Swap is a record to be written under conditions, all checked in the one
// transaction that writes it.
type Swap struct {
	// Task is the record to write. Its Revision is that of the record it
	// replaces, 0 for none.
	Task record.Task
	// Gone must not be members, There must be.
	Gone, There []record.MemberKey
	// Kind is the kind of write that is counted.
	Kind string
}

// Outcome is how things stand in the store after a Swap.
type Outcome struct {
	// Won tells that the record was written.
	Won bool
	// Task is the record in the store; Revision 0 means there is none.
	Task record.Task
	// Members are the members that the conditions name, and the owner and the
	// scheduler of what was to be written: nil for one that is none.
	Members map[record.MemberKey]*record.Member
}

// Swap writes a record if all conditions hold, and tells either way how the
// store stands. What is lost is a race, never an error.
func (s *Store) Swap(ctx context.Context, w Swap) (Outcome, error) {
	value, err := wire.StoreTask(w.Task)
	if err != nil {
		return Outcome{}, err
	}
	key := taskKey(w.Task.ID)
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", w.Task.Revision)}
	for _, k := range w.Gone {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(memberKey(k)), "=", 0))
	}
	for _, k := range w.There {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(memberKey(k)), ">", 0))
	}
	asked := slices.Concat([]record.MemberKey{w.Task.OwnerKey(), w.Task.SchedulerKey()}, w.Gone, w.There)
	reads := make([]clientv3.Op, 0, len(asked))
	for _, k := range asked {
		reads = append(reads, clientv3.OpGet(memberKey(k)))
	}
	var out Outcome
	err = s.conn.Do(ctx, "write task record", func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Txn(ctx).If(conditions...).
			Then(slices.Concat(reads, []clientv3.Op{clientv3.OpPut(key, value)})...).
			Else(slices.Concat(reads, []clientv3.Op{clientv3.OpGet(key)})...).Commit()
		if err != nil {
			return err
		}
		out = s.outcome(w, asked, resp)
		return nil
	})
	return out, err
}

func (s *Store) outcome(w Swap, asked []record.MemberKey, resp *clientv3.TxnResponse) Outcome {
	out := Outcome{Won: resp.Succeeded, Members: make(map[record.MemberKey]*record.Member, len(asked))}
	for i, k := range asked {
		out.Members[k] = nil
		for _, kv := range resp.Responses[i].GetResponseRange().GetKvs() {
			if lease, ok := s.loadMember(kv); ok {
				out.Members[k] = &lease.Member
			}
		}
	}
	if !out.Won {
		s.metrics.Conflicts.Inc()
		out.Task = s.found(w.Task.ID, resp.Responses[len(asked)].GetResponseRange())
		return out
	}
	s.wrote(w.Kind)
	out.Task = w.Task
	out.Task.Revision = resp.Header.Revision
	s.view.Feed(view.Change{Revision: out.Task.Revision, Task: &out.Task})
	return out
}

// found reads the answer for one record; Revision 0 for none.
func (s *Store) found(id string, resp *pb.RangeResponse) record.Task {
	for _, kv := range resp.GetKvs() {
		return s.loadTask(id, kv)
	}
	return record.Task{ID: id}
}

// Task reads a record from etcd itself; Revision 0 means there is none.
func (s *Store) Task(ctx context.Context, id string) (record.Task, error) {
	task := record.Task{ID: id}
	err := s.conn.Do(ctx, "read task record", func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Get(ctx, taskKey(id))
		if err != nil {
			return err
		}
		for _, kv := range resp.Kvs {
			task = s.loadTask(id, kv)
		}
		return nil
	})
	return task, err
}

// Delete removes a record if it is still of that revision, and tells either
// way how the store stands: Revision 0 when the record is gone.
func (s *Store) Delete(ctx context.Context, id string, revision int64) (record.Task, error) {
	left := record.Task{ID: id}
	err := s.conn.Do(ctx, "delete task record", func(ctx context.Context, c *clientv3.Client) error {
		key := taskKey(id)
		resp, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
			Then(clientv3.OpDelete(key)).
			Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			s.metrics.Conflicts.Inc()
			left = s.found(id, resp.Responses[0].GetResponseRange())
			return nil
		}
		s.wrote(metrics.WriteTaskDelete)
		s.view.Feed(view.Change{Revision: resp.Header.Revision, TaskGone: &id})
		return nil
	})
	return left, err
}
