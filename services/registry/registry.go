// Package registry is the service that stores the members of the cluster and the
// records of tasks, which assign each task to CDNs and to a scheduler. It is the only
// service that uses etcd: an external cluster, or an embedded server inside the
// process.
//
// Invariants:
//
//   - All state is in etcd, so every instance can answer every call.
//   - Reads come from a cache that a watch keeps up to date. While etcd is
//     unavailable, the cache keeps its content, and no member counts as gone.
//   - A record changes only by compare-and-swap on its revision, in the era of the
//     store in which it was read. Its epoch grows with every change of owner or
//     scheduler.
//   - A member that loses a task because it is gone has no key, which the same
//     transaction checks. A member that loses a task because a caller reports it as
//     lost loses it only in the epoch of the report.
//   - One pure function computes the next record (internal/ownership).
//   - The renewal of a lease is not a write. Peers and pieces cause no writes.
package registry

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/supernode-ha/supernode/pkg/settings"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/rpc"
	"github.com/supernode-ha/supernode/services/registry/internal/tasks"
)

const (
	defaultLeaseTTL    = 5 * time.Second
	minLeaseTTL        = time.Second
	defaultDialTimeout = 2 * time.Second
	defaultReplicas    = 2
	maxReplicas        = 10
)

// Config holds the settings of a registry.
type Config struct {
	// Endpoints are host:port or URLs of an external etcd cluster.
	Endpoints []string
	// EmbeddedDir is the data directory of an etcd server inside the process, which opens
	// no port. Exactly one of Endpoints and EmbeddedDir must be set.
	EmbeddedDir string
	// LeaseTTL is how long a member lives after its last heartbeat: at least 1 s, rounded
	// up to whole seconds. 0 means 5 s. An etcd with long election time-outs grants a
	// longer time, which the answer to a heartbeat contains.
	LeaseTTL time.Duration
	// DialTimeout bounds one attempt to connect to an external etcd. 0 means 2 s.
	DialTimeout time.Duration
	// Replicas is the number of copies that a task should have, including the owner's: 1
	// to 10. 0 means 2.
	Replicas int
}

// Deps holds the dependencies of a registry. Both are required.
type Deps struct {
	Logger  *zap.Logger
	Metrics prometheus.Registerer
}

// Service is a registry.
type Service struct {
	conn    *etcdconn.Conn
	store   *etcdstore.Store
	cache   *cache.Cache
	server  *rpc.Server
	stopped chan struct{}
}

// New returns a registry. It connects to nothing and opens no file: Run does.
func New(cfg Config, deps Deps) (*Service, error) {
	if deps.Logger == nil || deps.Metrics == nil {
		return nil, errors.New("registry: logger and metrics are required")
	}
	cfg, err := cfg.complete()
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	s := &Service{cache: cache.New(), stopped: make(chan struct{})}
	m, err := metrics.New(deps.Metrics, s.cache.Counts)
	if err != nil {
		return nil, fmt.Errorf("registry: %w", err)
	}
	s.conn = etcdconn.New(etcdconn.Config{
		Endpoints: cfg.Endpoints, EmbeddedDir: cfg.EmbeddedDir, DialTimeout: cfg.DialTimeout,
	}, deps.Logger)
	s.store = etcdstore.New(s.conn, s.cache, m, deps.Logger, cfg.LeaseTTL)
	records := tasks.New(tasks.Deps{Store: s.store, Cache: s.cache, Metrics: m, Log: deps.Logger, Copies: cfg.Replicas})
	s.server = rpc.New(rpc.Deps{Members: s.store, Tasks: records, Cache: s.cache, Copies: cfg.Replicas, Stopped: s.stopped})
	return s, nil
}

// ConfigFrom returns the configuration of a registry from the settings of its
// process. With --use-ha it has the external etcd, else an embedded one under the
// home directory.
func ConfigFrom(s *settings.Settings) Config {
	cfg := Config{LeaseTTL: s.LeaseTTL, Replicas: s.Replicas}
	if !s.UseHA {
		cfg.EmbeddedDir = filepath.Join(s.HomeDir, "etcd")
		return cfg
	}
	cfg.Endpoints = settings.List(s.EtcdAddress)
	return cfg
}

func (c Config) complete() (Config, error) {
	if (c.EmbeddedDir == "") == (len(c.Endpoints) == 0) {
		return c, errors.New("set either etcd endpoints or the directory of an embedded etcd, and not both")
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = defaultLeaseTTL
	}
	if c.LeaseTTL < minLeaseTTL {
		return c, fmt.Errorf("lease time to live of %s: the minimum is %s", c.LeaseTTL, minLeaseTTL)
	}
	// The leases of etcd have whole seconds.
	c.LeaseTTL = (c.LeaseTTL + time.Second - 1).Truncate(time.Second)
	if c.DialTimeout < 0 {
		return c, fmt.Errorf("dial time-out of %s: it must not be negative", c.DialTimeout)
	}
	if c.DialTimeout == 0 {
		c.DialTimeout = defaultDialTimeout
	}
	if c.Replicas == 0 {
		c.Replicas = defaultReplicas
	}
	if c.Replicas < 1 || c.Replicas > maxReplicas {
		return c, fmt.Errorf("%d replicas: want 1 to %d", c.Replicas, maxReplicas)
	}
	return c, nil
}

// Register registers the service at a gRPC server. Before and after Run, calls that
// need the store fail with UNAVAILABLE.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	registryv1.RegisterRegistryServiceServer(r, s.server)
}

// Ready returns a channel that is closed when the store has been read completely for
// the first time.
func (s *Service) Ready() <-chan struct{} { return s.cache.Synced() }

// WaitReady waits until Ready is closed. It returns an error if ctx ends before.
func (s *Service) WaitReady(ctx context.Context) error {
	select {
	case <-s.Ready():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("registry: waiting until the store has been read: %w", ctx.Err())
	}
}

// Run connects to the store and keeps the cache up to date until ctx ends. Then it
// ends everything in order: the watch, streams, calls that are under way, the client,
// and the embedded server.
//
// Run returns an error if the store cannot be opened, or if an embedded etcd stops
// unexpectedly. It waits for an external etcd that is unavailable. Run may be called
// once.
func (s *Service) Run(ctx context.Context) error {
	stop := sync.OnceFunc(func() { close(s.stopped) })
	defer stop()
	err := s.conn.Run(ctx, func(ctx context.Context) error {
		defer stop()
		s.store.Sync(ctx)
		return nil
	})
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	return nil
}
