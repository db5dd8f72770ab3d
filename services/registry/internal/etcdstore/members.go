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
	// maxAttempts bounds the attempts of one call to change a member that other registries
	// change at the same time.
	maxAttempts = 8
	// revokeTimeout bounds the revocation of an unused lease. A lease that is not revoked
	// expires.
	revokeTimeout = time.Second
)

// errChanged is returned if a transaction finds that a key has changed.
var errChanged = errors.New("other registries changed the key at the same time")

// Heartbeat renews the lease of m, which any registry may have granted. It writes m
// only if the store has another value or none. It returns how long the lease lives
// from now on.
//
// Heartbeat reads the key from the store each time. The cache may lack a change that
// another registry has just written, and a change back to the value in the cache
// would then not be written.
func (s *Store) Heartbeat(ctx context.Context, m record.Member) (time.Duration, error) {
	var ttl time.Duration
	err := s.conn.Do(ctx, "recording the heartbeat of "+describe(m.Key()), func(ctx context.Context, c *clientv3.Client) error {
		for range maxAttempts {
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

// readMember returns a member from the store, or the zero value if it is not there. A
// member whose value is invalid is returned with its lease, and differs from any
// heartbeat.
func (s *Store) readMember(ctx context.Context, c *clientv3.Client, key record.MemberKey) (cache.Lease, error) {
	resp, err := c.Get(ctx, memberKey(key))
	if err != nil || len(resp.Kvs) == 0 {
		return cache.Lease{}, err
	}
	lease, _ := s.loadMember(resp.Kvs[0])
	return lease, nil
}

// renew renews a lease, which is not a write, and writes m if it differs from the
// known value.
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

// join writes m with a new lease. If the write fails or its result is unknown, the
// lease is revoked, so that no lease without a key stays.
func (s *Store) join(ctx context.Context, c *clientv3.Client, known cache.Lease, m record.Member) (time.Duration, error) {
	grant, err := c.Grant(ctx, int64(s.ttl/time.Second))
	if err != nil {
		return 0, err
	}
	s.countWrite(metrics.WriteLease)
	if err := s.putMember(ctx, c, known.Revision, int64(grant.ID), m); err != nil {
		s.revokeUnused(ctx, c, grant.ID)
		return 0, err
	}
	s.log.Info("member joined", zap.String("role", string(m.Role)), zap.String("member_id", m.ID), zap.String("endpoint", m.Endpoint))
	return time.Duration(grant.TTL) * time.Second, nil
}

// revokeUnused revokes a lease that has no key.
func (s *Store) revokeUnused(ctx context.Context, c *clientv3.Client, id clientv3.LeaseID) {
	// The caller may have no time left: that is the usual cause of an unused lease.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), revokeTimeout)
	defer cancel()
	if _, err := c.Revoke(ctx, id); err != nil {
		s.log.Debug("cannot revoke an unused lease; it will expire", zap.Error(err))
		return
	}
	s.countWrite(metrics.WriteRevoke)
}

// putMember writes m if the key has the given revision, which is 0 if the key must
// not exist.
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
	s.countWrite(metrics.WriteMember)
	rev := resp.Header.Revision
	s.cache.ApplyWrite(eraOf(resp.Responses[0]), cache.Change{Revision: rev, Member: &cache.Lease{Member: m, ID: lease, Revision: rev}})
	return nil
}

// Leave removes a member and its lease. It returns nil if there is no such member.
func (s *Store) Leave(ctx context.Context, key record.MemberKey) error {
	return s.conn.Do(ctx, "removing "+describe(key), func(ctx context.Context, c *clientv3.Client) error {
		for range maxAttempts {
			known, err := s.readMember(ctx, c, key)
			if err != nil || known.Revision == 0 {
				return err
			}
			gone, err := s.removeMember(ctx, c, key, known.Revision)
			if err != nil {
				return err
			}
			if gone && known.ID != 0 {
				s.revokeUnused(ctx, c, clientv3.LeaseID(known.ID))
			}
			if gone {
				s.log.Info("member left", zap.String("role", string(key.Role)), zap.String("member_id", key.ID))
				return nil
			}
		}
		return errChanged
	})
}

// removeMember deletes the key if it has the given revision. A revocation of the
// lease would delete the key, too, but its response has no revision: the cache could
// not tell the deletion from a later write of the member.
func (s *Store) removeMember(ctx context.Context, c *clientv3.Client, key record.MemberKey, revision int64) (bool, error) {
	resp, err := c.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(memberKey(key)), "=", revision)).
		Then(clientv3.OpGet(eraKey), clientv3.OpDelete(memberKey(key))).
		Commit()
	if err != nil || !resp.Succeeded {
		return false, err
	}
	s.countWrite(metrics.WriteMember)
	s.cache.ApplyWrite(eraOf(resp.Responses[0]), cache.Change{Revision: resp.Header.Revision, MemberGone: &key})
	return true, nil
}
