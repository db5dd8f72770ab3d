package etcdstore

import (
	"context"
	"crypto/rand"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
)

// The era of a store is a random value that the first registry writes to it. It
// identifies the store: a store that was emptied or restored starts its revisions
// again, so a revision that was read before may by chance be that of another write
// now.
//
// If any registry has received another era before, then members exist that have not
// sent a heartbeat to the new store yet. Such a store is young for the time to live
// of a lease: it has a key with that lease. While the store is young, the members of
// the former store count as members, and no record may be changed because a member is
// gone.

// eraOf returns the era in a response, or an empty string.
func eraOf(resp *pb.ResponseOp) string {
	for _, kv := range resp.GetResponseRange().GetKvs() {
		return string(kv.Value)
	}
	return ""
}

// notYoung is the condition that the store is not young.
func notYoung() clientv3.Cmp { return clientv3.Compare(clientv3.CreateRevision(youngKey), "=", 0) }

// sameEra is the condition that the store has the given era.
func sameEra(era string) clientv3.Cmp { return clientv3.Compare(clientv3.Value(eraKey), "=", era) }

// beginEra writes a new era if the store still has the era old, which may be empty. A
// store that was restored from a backup has the era of that time. The store becomes
// young if the cache has the content of a former store.
func (s *Store) beginEra(ctx context.Context, old string) error {
	return s.conn.Do(ctx, "starting a new era of the store", func(ctx context.Context, c *clientv3.Client) error {
		put := clientv3.OpPut(eraKey, rand.Text())
		unchanged := clientv3.Compare(clientv3.CreateRevision(eraKey), "=", 0)
		if old != "" {
			unchanged = sameEra(old)
		}
		var resp *clientv3.TxnResponse
		var err error
		if known, _ := s.cache.Position(); known != "" {
			resp, err = s.commitAsYoung(ctx, c, unchanged, put)
		} else {
			resp, err = c.Txn(ctx).If(unchanged).Then(put).Commit()
		}
		if err != nil || !resp.Succeeded {
			return err
		}
		s.countWrite(metrics.WriteEra)
		s.log.Info("started a new era of the store", zap.Int64("revision", resp.Header.Revision))
		return nil
	})
}

// commitAsYoung commits operations under a condition, and marks the store as young in
// the same transaction.
func (s *Store) commitAsYoung(ctx context.Context, c *clientv3.Client, condition clientv3.Cmp, ops ...clientv3.Op) (*clientv3.TxnResponse, error) {
	grant, err := c.Grant(ctx, int64(s.ttl/time.Second))
	if err != nil {
		return nil, err
	}
	s.countWrite(metrics.WriteLease)
	resp, err := c.Txn(ctx).If(condition).Then(append(ops, clientv3.OpPut(youngKey, "", clientv3.WithLease(grant.ID)))...).Commit()
	if err != nil || !resp.Succeeded {
		s.revokeUnused(ctx, c, grant.ID)
	}
	return resp, err
}

// markYoung marks a store as young that another registry has given its era. That
// registry had received no other era before, so it did not mark the store.
func (s *Store) markYoung(ctx context.Context, era string) error {
	return s.conn.Do(ctx, "marking the store as young", func(ctx context.Context, c *clientv3.Client) error {
		_, err := s.commitAsYoung(ctx, c, sameEra(era))
		return err
	})
}

// checkEra compares the era in a response with that of the cache. If they differ, it
// makes Sync list everything again.
func (s *Store) checkEra(era string) {
	if known, _ := s.cache.Position(); known == era || known == "" {
		return
	}
	select {
	case s.reset <- struct{}{}:
	default:
	}
}
