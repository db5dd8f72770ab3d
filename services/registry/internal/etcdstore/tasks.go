package etcdstore

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Swap is a record to write, and the conditions that its transaction checks.
type Swap struct {
	// Task is the record to write. Its Revision is that of the record that it replaces, 0
	// if there must be none.
	Task record.Task
	// Era is the era in which the replaced record was read.
	Era string
	// Absent must not be members, Present must be members.
	Absent, Present []record.MemberKey
	// Kind is the kind under which the write is counted.
	Kind string
}

// Swap writes a record if all conditions hold, and returns it with its new revision.
// If a condition does not hold, Swap returns false and no error.
func (s *Store) Swap(ctx context.Context, w Swap) (written record.Task, swapped bool, err error) {
	value, err := convert.EncodeTask(w.Task)
	if err != nil {
		return record.Task{}, false, err
	}
	key := taskKey(w.Task.ID)
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", w.Task.Revision), sameEra(w.Era)}
	if len(w.Absent) > 0 {
		conditions = append(conditions, notYoung())
	}
	for _, k := range w.Absent {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(memberKey(k)), "=", 0))
	}
	for _, k := range w.Present {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(memberKey(k)), ">", 0))
	}
	err = s.conn.Do(ctx, "writing a task record", func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Txn(ctx).If(conditions...).Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(eraKey)).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			s.metrics.Conflicts.Inc()
			s.checkEra(eraOf(resp.Responses[0]))
			return nil
		}
		s.countWrite(w.Kind)
		written, swapped = w.Task, true
		written.Revision = resp.Header.Revision
		s.cache.ApplyWrite(w.Era, cache.Change{Revision: written.Revision, Task: &written})
		return nil
	})
	return written, swapped, err
}

// State holds what a decision about records depends on, read at one revision of the store.
type State struct {
	Era string
	// Young is set if the members of a former store may not have sent a heartbeat yet.
	Young bool
	// Tasks are the requested records. The Revision of one that does not exist is 0.
	Tasks map[string]record.Task
	// Members are all CDNs and schedulers. Those with a drain mark are DRAINING.
	Members map[record.MemberKey]record.Member
}

// MaxReadTasks is the maximum number of records that one ReadState may read.
const MaxReadTasks = 100

// ReadState reads records, and all CDNs and schedulers, from etcd.
func (s *Store) ReadState(ctx context.Context, ids ...string) (State, error) {
	for {
		state, err := s.readState(ctx, ids)
		if err != nil || state.Era != "" {
			return state, err
		}
		if err := s.beginEra(ctx, ""); err != nil {
			return State{}, err
		}
	}
}

func (s *Store) readState(ctx context.Context, ids []string) (State, error) {
	ops := []clientv3.Op{
		clientv3.OpGet(eraKey),
		clientv3.OpGet(youngKey),
		clientv3.OpGet(roleRoot(record.RoleCDN), clientv3.WithPrefix()),
		clientv3.OpGet(roleRoot(record.RoleScheduler), clientv3.WithPrefix()),
		clientv3.OpGet(drainRoot, clientv3.WithPrefix()),
	}
	before := len(ops)
	for _, id := range ids {
		ops = append(ops, clientv3.OpGet(taskKey(id)))
	}
	var resp *clientv3.TxnResponse
	err := s.conn.Do(ctx, "reading task records", func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return State{}, err
	}
	state := State{
		Era: eraOf(resp.Responses[0]), Young: len(resp.Responses[1].GetResponseRange().GetKvs()) > 0,
		Tasks: make(map[string]record.Task, len(ids)), Members: s.members(resp.Responses[2:before]),
	}
	for i, id := range ids {
		state.Tasks[id] = s.found(id, resp.Responses[before+i])
	}
	s.checkEra(state.Era)
	return state, nil
}

// members decodes lists of members. The last list contains drain marks.
func (s *Store) members(lists []*pb.ResponseOp) map[record.MemberKey]record.Member {
	members := make(map[record.MemberKey]record.Member)
	last := len(lists) - 1
	for _, list := range lists[:last] {
		for _, kv := range list.GetResponseRange().GetKvs() {
			if lease, ok := s.loadMember(kv); ok {
				members[lease.Member.Key()] = lease.Member
			}
		}
	}
	for _, kv := range lists[last].GetResponseRange().GetKvs() {
		key, _ := parseDrain(string(kv.Key))
		if m, ok := members[key]; ok {
			m.State = record.StateDraining
			members[key] = m
		}
	}
	return members
}

// found decodes the response for one record. The Revision is 0 if there is none.
func (s *Store) found(id string, resp *pb.ResponseOp) record.Task {
	for _, kv := range resp.GetResponseRange().GetKvs() {
		return s.loadTask(id, kv)
	}
	return record.Task{ID: id}
}

// Task reads a record and the era from etcd. The Revision is 0 if there is no record.
func (s *Store) Task(ctx context.Context, id string) (task record.Task, era string, err error) {
	err = s.conn.Do(ctx, "reading task records", func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Txn(ctx).Then(clientv3.OpGet(taskKey(id)), clientv3.OpGet(eraKey)).Commit()
		if err != nil {
			return err
		}
		task, era = s.found(id, resp.Responses[0]), eraOf(resp.Responses[1])
		s.checkEra(era)
		return nil
	})
	return task, era, err
}

// Delete removes a record if it has the given revision and the store the given era.
func (s *Store) Delete(ctx context.Context, id, era string, revision int64) (deleted bool, err error) {
	err = s.conn.Do(ctx, "deleting a task record", func(ctx context.Context, c *clientv3.Client) error {
		key := taskKey(id)
		resp, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", revision), sameEra(era)).
			Then(clientv3.OpDelete(key)).
			Else(clientv3.OpGet(eraKey)).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			s.metrics.Conflicts.Inc()
			s.checkEra(eraOf(resp.Responses[0]))
			return nil
		}
		deleted = true
		s.countWrite(metrics.WriteTaskDelete)
		s.cache.ApplyWrite(era, cache.Change{Revision: resp.Header.Revision, TaskGone: &id})
		return nil
	})
	return deleted, err
}
