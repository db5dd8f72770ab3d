package etcdstore

import (
	"context"
	"errors"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

const (
	// maxRounds bounds how often one call follows a member that others change.
	maxRounds = 8
	// cleanUp bounds the revocation of a lease that nobody uses; what is missed
	// ends by itself.
	cleanUp = time.Second
)

// errChanged is a transaction that found the store changed.
var errChanged = errors.New("changed meanwhile")

// Heartbeat renews m's lease, whoever granted it, and writes m only if the
// store has it differently or not at all. It answers how long the lease lives
// from now on.
//
// The key itself is read each time. The copy may not have yet what another
// registry wrote a moment ago, and m would not be written although it differs.
func (s *Store) Heartbeat(ctx context.Context, m record.Member) (time.Duration, error) {
	var ttl time.Duration
	err := s.conn.Do(ctx, "heartbeat of "+describe(m.Key()), func(ctx context.Context, c *clientv3.Client) error {
		for range maxRounds {
			known, err := s.readMember(ctx, c, m.Key())
			if err != nil {
				return err
			}
			if known.ID != 0 {
				ttl, err = s.renew(ctx, c, known, m)
			} else {
				ttl, err = s.join(ctx, c, known, m)
			}
			if !errors.Is(err, errChanged) && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return err
			}
		}
		return errChanged
	})
	return ttl, err
}

// readMember gives a member as it stands in the store, all zero if it is not
// there. One that cannot be read is given with its lease, and differs from any
// heartbeat.
func (s *Store) readMember(ctx context.Context, c *clientv3.Client, key record.MemberKey) (cache.Lease, error) {
	resp, err := c.Get(ctx, memberKey(key))
	if err != nil || len(resp.Kvs) == 0 {
		return cache.Lease{}, err
	}
	lease, _ := s.loadMember(resp.Kvs[0])
	return lease, nil
}

// renew keeps a lease alive, which is no write, and corrects the value if it differs.
func (s *Store) renew(ctx context.Context, c *clientv3.Client, known cache.Lease, m record.Member) (time.Duration, error) {
	alive, err := c.KeepAliveOnce(ctx, clientv3.LeaseID(known.ID))
	if err != nil {
		return 0, err
	}
	if known.Member != m {
		if err := s.putMember(ctx, c, known.Revision, known.ID, m); err != nil {
			return 0, err
		}
	}
	return time.Duration(alive.TTL) * time.Second, nil
}

// join gives m a lease of its own. If another registry was faster, or the
// answer was lost, the lease goes again: no key may be left without its lease
// and no lease without its key.
func (s *Store) join(ctx context.Context, c *clientv3.Client, known cache.Lease, m record.Member) (time.Duration, error) {
	grant, err := c.Grant(ctx, int64(s.ttl/time.Second))
	if err != nil {
		return 0, err
	}
	s.wrote(metrics.WriteLease)
	if err := s.putMember(ctx, c, known.Revision, int64(grant.ID), m); err != nil {
		s.revokeOrphan(ctx, c, grant.ID)
		return 0, err
	}
	s.log.Info("member joined", zap.String("role", string(m.Role)), zap.String("member_id", m.ID), zap.String("endpoint", m.Endpoint))
	return time.Duration(grant.TTL) * time.Second, nil
}

func (s *Store) revokeOrphan(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID) {
	// The caller may be out of time; that is when this matters most.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanUp)
	defer cancel()
	if _, err := c.Revoke(ctx, id); err != nil {
		s.log.Debug("lease left to expire", zap.Error(err))
		return
	}
	s.wrote(metrics.WriteRevoke)
}

// putMember writes m if the key is still of that revision, 0 for absent.
func (s *Store) putMember(ctx context.Context, c *clientv3.Client, revision, lease int64, m record.Member) error {
	value, err := convert.EncodeMember(m)
	if err != nil {
		return err
	}
	key := memberKey(m.Key())
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpGet(eraKey), clientv3.OpPut(key, value, clientv3.WithLease(clientv3.LeaseID(lease)))).
		Commit()
	if err != nil {
		return err
	}
	if !resp.Succeeded {
		s.metrics.Conflicts.Inc()
		return errChanged
	}
	s.wrote(metrics.WriteMember)
	rev := resp.Header.Revision
	s.cache.ApplyWrite(eraOf(resp.Responses[0]), cache.Change{Revision: rev, Member: &cache.Lease{Member: m, ID: lease, Revision: rev}})
	return nil
}

// Leave removes a member and its lease; one that is not there is no error.
func (s *Store) Leave(ctx context.Context, key record.MemberKey) error {
	return s.conn.Do(ctx, "leave of "+describe(key), func(ctx context.Context, c *clientv3.Client) error {
		for range maxRounds {
			known, err := s.readMember(ctx, c, key)
			if err != nil || known.Revision == 0 {
				return err
			}
			gone, err := s.removeMember(ctx, c, key, known.Revision)
			if err != nil {
				return err
			}
			if gone && known.ID != 0 {
				s.revokeOrphan(ctx, c, clientv3.LeaseID(known.ID))
			}
			if gone {
				s.log.Info("member left", zap.String("role", string(key.Role)), zap.String("member_id", key.ID))
				return nil
			}
		}
		return errChanged
	})
}

// removeMember deletes the key if it is still of that revision. Revoking the
// lease would delete it too, but would not tell at which revision, and the
// copy could not tell the deletion from a later return of the member.
func (s *Store) removeMember(ctx context.Context, c *clientv3.Client, key record.MemberKey, revision int64) (bool, error) {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(memberKey(key)), "=", revision)).
		Then(clientv3.OpGet(eraKey), clientv3.OpDelete(memberKey(key))).
		Commit()
	if err != nil || !resp.Succeeded {
		return false, err
	}
	s.wrote(metrics.WriteMember)
	s.cache.ApplyWrite(eraOf(resp.Responses[0]), cache.Change{Revision: resp.Header.Revision, MemberGone: &key})
	return true, nil
}
