package etcdstore

import (
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/convert"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Store reads and writes etcd. It is safe for concurrent use. Everything that it
// writes is also applied to the cache.
type Store struct {
	conn    *etcdconn.Conn
	cache   *cache.Cache
	metrics *metrics.Metrics
	log     *zap.Logger
	ttl     time.Duration
	// reset has an element if a call has found another era in the store than the cache
	// has. Sync lists everything again then.
	reset chan struct{}
}

// New returns a store. New leases have the given time to live, in whole seconds.
func New(conn *etcdconn.Conn, c *cache.Cache, m *metrics.Metrics, log *zap.Logger, ttl time.Duration) *Store {
	return &Store{conn: conn, cache: c, metrics: m, log: log, ttl: ttl, reset: make(chan struct{}, 1)}
}

// loadMember decodes a stored member. It returns false if the key or the value is
// invalid. If only the value is invalid, the lease and the revision are returned
// nevertheless, so that the next heartbeat of the member can replace it.
func (s *Store) loadMember(kv *mvccpb.KeyValue) (cache.Lease, bool) {
	key, ok := parseMember(string(kv.Key))
	if !ok {
		s.log.Warn("ignoring a key in the store that is not a valid member key", zap.ByteString("key", kv.Key))
		return cache.Lease{}, false
	}
	lease := cache.Lease{Member: record.Member{Role: key.Role, ID: key.ID}, ID: kv.Lease, Revision: kv.ModRevision}
	member, err := convert.DecodeMember(key, kv.Value)
	if err != nil {
		s.log.Warn("ignoring a stored member that cannot be decoded; its next heartbeat replaces it", zap.ByteString("key", kv.Key), zap.Error(err))
		return lease, false
	}
	lease.Member = member
	return lease, true
}

// loadTask decodes a stored record. If that fails, it returns a record without an
// owner but with the revision, so that the next claim replaces it.
func (s *Store) loadTask(id string, kv *mvccpb.KeyValue) record.Task {
	task, err := convert.DecodeTask(id, kv.ModRevision, kv.Value)
	if err != nil {
		s.log.Error("a stored task record cannot be decoded; the next claim replaces it", zap.String("task_id", id), zap.Error(err))
		return record.Task{ID: id, Revision: kv.ModRevision}
	}
	return task
}

// countWrite counts a write of the given kind.
func (s *Store) countWrite(kind string) { s.metrics.Writes.WithLabelValues(kind).Inc() }

// describe returns a member key as text for errors.
func describe(k record.MemberKey) string { return fmt.Sprintf("%s %s", k.Role, k.ID) }
