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

// Swap is a record to be written under conditions, all checked in the one
// transaction that writes it.
type Swap struct {
	// Task is the record to write. Its Revision is that of the record it
	// replaces, 0 for none.
	Task record.Task
	// Era is the one in which that record was read.
	Era string
	// Gone must not be members, There must be.
	Gone, There []record.MemberKey
	// Kind is the kind of write that is counted.
	Kind string
}

// Swap writes a record if all conditions hold, and gives it with its new
// revision. What is lost is a race, never an error.
func (s *Store) Swap(ctx context.Context, w Swap) (written record.Task, won bool, err error) {
	value, err := convert.EncodeTask(w.Task)
	if err != nil {
		return record.Task{}, false, err
	}
	key := taskKey(w.Task.ID)
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", w.Task.Revision), sameEra(w.Era)}
	if len(w.Gone) > 0 {
		conditions = append(conditions, grown())
	}
	for _, k := range w.Gone {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(memberKey(k)), "=", 0))
	}
	for _, k := range w.There {
		conditions = append(conditions, clientv3.Compare(clientv3.CreateRevision(memberKey(k)), ">", 0))
	}
	err = s.conn.Do(ctx, "write task record", func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Txn(ctx).If(conditions...).Then(clientv3.OpPut(key, value)).Else(clientv3.OpGet(eraKey)).Commit()
		if err != nil {
			return err
		}
		if !resp.Succeeded {
			s.metrics.Conflicts.Inc()
			s.met(eraOf(resp.Responses[0]))
			return nil
		}
		s.wrote(w.Kind)
		written, won = w.Task, true
		written.Revision = resp.Header.Revision
		s.cache.ApplyWrite(w.Era, cache.Change{Revision: written.Revision, Task: &written})
		return nil
	})
	return written, won, err
}

// Scene is what a decision about records needs, at one revision of the store.
type Scene struct {
	Era string
	// Young says that not every member can have announced itself yet.
	Young bool
	// Tasks are the records that were asked for; Revision 0 for one that is not there.
	Tasks map[string]record.Task
	// Members are all CDNs and schedulers as they count: marked ones are DRAINING.
	Members map[record.MemberKey]record.Member
}

// MaxLook is the most records that one Look may ask for.
const MaxLook = 100

// Look reads records and members from etcd itself.
func (s *Store) Look(ctx context.Context, ids ...string) (Scene, error) {
	for {
		scene, err := s.look(ctx, ids)
		if err != nil || scene.Era != "" {
			return scene, err
		}
		if err := s.beginEra(ctx, ""); err != nil {
			return Scene{}, err
		}
	}
}

func (s *Store) look(ctx context.Context, ids []string) (Scene, error) {
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
	err := s.conn.Do(ctx, "read task record", func(ctx context.Context, c *clientv3.Client) (err error) {
		resp, err = c.Txn(ctx).Then(ops...).Commit()
		return err
	})
	if err != nil {
		return Scene{}, err
	}
	scene := Scene{
		Era: eraOf(resp.Responses[0]), Young: len(resp.Responses[1].GetResponseRange().GetKvs()) > 0,
		Tasks: make(map[string]record.Task, len(ids)), Members: s.members(resp.Responses[2:before]),
	}
	for i, id := range ids {
		scene.Tasks[id] = s.found(id, resp.Responses[before+i])
	}
	s.met(scene.Era)
	return scene, nil
}

// members reads lists of members, the last of them one of marks.
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

// found reads the answer for one record; Revision 0 for none.
func (s *Store) found(id string, resp *pb.ResponseOp) record.Task {
	for _, kv := range resp.GetResponseRange().GetKvs() {
		return s.loadTask(id, kv)
	}
	return record.Task{ID: id}
}

// Task reads a record from etcd itself, and the era; Revision 0 means there is none.
func (s *Store) Task(ctx context.Context, id string) (task record.Task, era string, err error) {
	err = s.conn.Do(ctx, "read task record", func(ctx context.Context, c *clientv3.Client) error {
		resp, err := c.Txn(ctx).Then(clientv3.OpGet(taskKey(id)), clientv3.OpGet(eraKey)).Commit()
		if err != nil {
			return err
		}
		task, era = s.found(id, resp.Responses[0]), eraOf(resp.Responses[1])
		s.met(era)
		return nil
	})
	return task, era, err
}

// Delete removes a record if it is still of that revision in that era.
func (s *Store) Delete(ctx context.Context, id, era string, revision int64) (won bool, err error) {
	err = s.conn.Do(ctx, "delete task record", func(ctx context.Context, c *clientv3.Client) error {
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
			s.met(eraOf(resp.Responses[0]))
			return nil
		}
		won = true
		s.wrote(metrics.WriteTaskDelete)
		s.cache.ApplyWrite(era, cache.Change{Revision: resp.Header.Revision, TaskGone: &id})
		return nil
	})
	return won, err
}
