package etcdstore

import (
	"context"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Drain marks a member, or takes the mark away. The mark has no lease: it
// outlives the member's restarts. It is no answer to anything that was read,
// so no era is compared.
func (s *Store) Drain(ctx context.Context, key record.MemberKey, drain bool) error {
	return s.conn.Do(ctx, "mark "+describe(key), func(ctx context.Context, c *clientv3.Client) error {
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
			return err // what is so already needs no write
		}
		s.wrote(metrics.WriteDrain)
		change.Revision = resp.Header.Revision
		s.cache.ApplyWrite(eraOf(resp.Responses[0]), change)
		s.log.Info("member marked", zap.String("role", string(key.Role)), zap.String("member_id", key.ID), zap.Bool("drain", drain))
		return nil
	})
}

// Forget removes a member, its lease and its mark.
func (s *Store) Forget(ctx context.Context, key record.MemberKey) error {
	if err := s.Leave(ctx, key); err != nil {
		return err
	}
	return s.Drain(ctx, key, false)
}
