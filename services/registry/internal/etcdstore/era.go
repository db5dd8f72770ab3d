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

// The era of a store is a random value that its first writer puts there. A
// store that was emptied or restored counts its revisions anew, and what was
// read before may by chance be of a revision that another write has now.
//
// Where any registry remembers another store, members remember it too, and have
// not announced themselves to this one yet. Such a store is young for the time
// that a lease lives: a key under one says so. While it is, the members of the
// store before count as members, and whoever takes something from one who is
// none proves that the key is gone.

// eraOf reads the answer for the era; empty for none.
func eraOf(resp *pb.ResponseOp) string {
	for _, kv := range resp.GetResponseRange().GetKvs() {
		return string(kv.Value)
	}
	return ""
}

// grown is the condition that the store is not young any more.
func grown() clientv3.Cmp { return clientv3.Compare(clientv3.CreateRevision(youngKey), "=", 0) }

// sameEra is the condition that the store is still the one that was read.
func sameEra(era string) clientv3.Cmp { return clientv3.Compare(clientv3.Value(eraKey), "=", era) }

// beginEra gives a store an era that has none, or another one to a store that
// was restored from a backup with the era that it had then.
func (s *Store) beginEra(ctx context.Context, old string) error {
	return s.conn.Do(ctx, "begin era of the store", func(ctx context.Context, c *clientv3.Client) error {
		begin := clientv3.OpPut(eraKey, rand.Text())
		unchanged := clientv3.Compare(clientv3.CreateRevision(eraKey), "=", 0)
		if old != "" {
			unchanged = sameEra(old)
		}
		var resp *clientv3.TxnResponse
		var err error
		if known, _ := s.cache.Position(); known != "" {
			resp, err = s.asYoung(ctx, c, unchanged, begin)
		} else {
			resp, err = c.Txn(ctx).If(unchanged).Then(begin).Commit()
		}
		if err != nil || !resp.Succeeded {
			return err
		}
		s.wrote(metrics.WriteEra)
		s.log.Info("a new era of the store begins", zap.Int64("revision", resp.Header.Revision))
		return nil
	})
}

// asYoung writes under a condition, and that the store is young from then on.
func (s *Store) asYoung(ctx context.Context, c *clientv3.Client, condition clientv3.Cmp, more ...clientv3.Op) (*clientv3.TxnResponse, error) {
	grant, err := c.Grant(ctx, int64(s.ttl/time.Second))
	if err != nil {
		return nil, err
	}
	s.wrote(metrics.WriteLease)
	resp, err := c.Txn(ctx).If(condition).Then(append(more, clientv3.OpPut(youngKey, "", clientv3.WithLease(grant.ID)))...).Commit()
	if err != nil || !resp.Succeeded {
		s.revokeOrphan(ctx, c, grant.ID)
	}
	return resp, err
}

// makeYoung says of a store in another's place that it is young, which the
// registry that came first to it did not know: it remembered none.
func (s *Store) makeYoung(ctx context.Context, era string) error {
	return s.conn.Do(ctx, "tell that the store is new", func(ctx context.Context, c *clientv3.Client) error {
		_, err := s.asYoung(ctx, c, sameEra(era))
		return err
	})
}

// met compares the era that a call found with the copy's, and has everything
// listed again when it is another.
func (s *Store) met(era string) {
	if known, _ := s.cache.Position(); known == era || known == "" {
		return
	}
	select {
	case s.reset <- struct{}{}:
	default:
	}
}
