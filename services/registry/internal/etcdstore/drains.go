package etcdstore

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Drain sets or removes the drain mark of a member. The mark has no lease, so it
// stays when the member restarts. The era is not compared, because the mark does not
// depend on anything that was read.
func (s *Store) Drain(ctx context.Context, key record.MemberKey, drain bool) error {
	return s.conn.Do(ctx, "changing the drain mark of "+describe(key), func(ctx context.Context, c *clientv3.Client) error {
		op := clientv3.OpPut(drainKey(key), "{}")
		absent, change := "=", cache.Change{DrainMark: &key}
		if !drain {
			op = clientv3.OpDelete(drainKey(key))
			absent, change = ">", cache.Change{DrainMarkGone: &key}
		}
		resp, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(drainKey(key)), absent, 0)).
			Then(clientv3.OpGet(eraKey), op).Commit()
		if err != nil || !resp.Succeeded {
			return err // no write is needed if the mark is already as requested
		}
		s.countWrite(metrics.WriteDrain)
		change.Revision = resp.Header.Revision
		s.cache.ApplyWrite(eraOf(resp.Responses[0]), change)
		s.log.Info("changed the drain mark of a member", zap.String("role", string(key.Role)), zap.String("member_id", key.ID), zap.Bool("drain", drain))
		return nil
	})
}

// Forget removes a member, its lease and its drain mark.
func (s *Store) Forget(ctx context.Context, key record.MemberKey) error {
	if err := s.Leave(ctx, key); err != nil {
		return err
	}
	return s.Drain(ctx, key, false)
}
