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

// Store reads and writes etcd. Every write it makes is fed to the copy.
type Store struct {
	conn    *etcdconn.Conn
	cache   *cache.Cache
	metrics *metrics.Metrics
	log     *zap.Logger
	ttl     time.Duration
	// reset holds a token when a call found the store in another era than the copy.
	reset chan struct{}
}

// New makes a store whose new leases live for ttl, whole seconds.
func New(conn *etcdconn.Conn, copied *cache.Cache, m *metrics.Metrics, log *zap.Logger, ttl time.Duration) *Store {
	return &Store{conn: conn, cache: copied, metrics: m, log: log, ttl: ttl, reset: make(chan struct{}, 1)}
}

// loadMember reads a stored member; false for what nobody can use, which its
// own next heartbeat replaces.
func (s *Store) loadMember(kv *mvccpb.KeyValue) (cache.Lease, bool) {
	key, ok := parseMember(string(kv.Key))
	if !ok {
		s.log.Warn("a member key in the store is not ours", zap.ByteString("key", kv.Key))
		return cache.Lease{}, false
	}
	lease := cache.Lease{Member: record.Member{Role: key.Role, ID: key.ID}, ID: kv.Lease, Revision: kv.ModRevision}
	member, err := convert.DecodeMember(key, kv.Value)
	if err != nil {
		s.log.Warn("a member in the store cannot be read", zap.ByteString("key", kv.Key), zap.Error(err))
		return lease, false
	}
	lease.Member = member
	return lease, true
}

// loadTask reads a stored record. One that cannot be read counts as a record
// without owner at its revision, so that the next claim replaces it.
func (s *Store) loadTask(id string, kv *mvccpb.KeyValue) record.Task {
	task, err := convert.DecodeTask(id, kv.ModRevision, kv.Value)
	if err != nil {
		s.log.Error("a task record in the store cannot be read", zap.String("task_id", id), zap.Error(err))
		return record.Task{ID: id, Revision: kv.ModRevision}
	}
	return task
}

func (s *Store) wrote(kind string) { s.metrics.Writes.WithLabelValues(kind).Inc() }

func describe(k record.MemberKey) string { return fmt.Sprintf("%s %s", k.Role, k.ID) }
