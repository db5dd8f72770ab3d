// Package registry is the service that knows who is a member of the cluster,
// and which CDN and which scheduler every task belongs to. It is the only one
// that talks to etcd: to an external cluster, or to a server of its own inside
// the process.
//
// Invariants:
//   - All state is in etcd; any instance answers for any other.
//   - Reads come from a watched copy. While etcd is away the copy stays as it
//     was last seen: nobody is declared gone because etcd is silent.
//   - A record changes only by compare-and-swap on its revision, in the era of
//     the store in which it was read; its epoch grows with every change of owner
//     or scheduler. Who loses something for being no member is proven to have no
//     key in the same transaction; who loses it on somebody's word loses it in
//     one epoch only.
//   - What follows a record is said by one pure function (internal/ownership).
//   - Renewing a lease is no write, and neither peers nor pieces cause any.
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

// Config says where the registry keeps its state.
type Config struct {
	// Endpoints are host:port or URLs of an external etcd cluster.
	Endpoints []string
	// EmbeddedDir, when set, is the data directory of an etcd server inside the
	// process that listens nowhere; Endpoints must be empty then.
	EmbeddedDir string
	// LeaseTTL is how long a member lives after its last heartbeat: 5 s when 0,
	// at least 1 s, rounded up to whole seconds. An etcd with long election
	// time-outs makes it longer; Heartbeat answers what was granted.
	LeaseTTL time.Duration
	// DialTimeout bounds one attempt to connect to an external etcd: 2 s when 0.
	DialTimeout time.Duration
	// Replicas is how many copies of a task are kept, the owner's included: 1
	// to 10, 2 when 0.
	Replicas int
}

// Deps are what the registry is given. Both are required.
type Deps struct {
	Logger  *zap.Logger
	Metrics prometheus.Registerer
}

// Service is a registry. Use New.
type Service struct {
	conn    *etcdconn.Conn
	store   *etcdstore.Store
	cache   *cache.Cache
	server  *rpc.Server
	stopped chan struct{}
}

// New makes a registry. It opens nothing: that is Run's to do and to undo.
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
	changes := tasks.New(tasks.Deps{Store: s.store, Cache: s.cache, Metrics: m, Log: deps.Logger, Copies: cfg.Replicas})
	s.server = rpc.New(rpc.Deps{Members: s.store, Tasks: changes, Cache: s.cache, Copies: cfg.Replicas, Stopped: s.stopped})
	return s, nil
}

// ConfigFrom takes from the settings what concerns a registry: the etcd at the
// address for one of several, an etcd of its own under the home directory for
// one that is alone.
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
		return c, errors.New("either etcd endpoints or a directory for an embedded etcd must be given, and not both")
	}
	if c.LeaseTTL == 0 {
		c.LeaseTTL = defaultLeaseTTL
	}
	if c.LeaseTTL < minLeaseTTL {
		return c, fmt.Errorf("lease time to live of %s is below %s", c.LeaseTTL, minLeaseTTL)
	}
	// etcd knows whole seconds only.
	c.LeaseTTL = (c.LeaseTTL + time.Second - 1).Truncate(time.Second)
	if c.DialTimeout < 0 {
		return c, fmt.Errorf("dial time-out of %s", c.DialTimeout)
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

// Register puts the service on a gRPC server. Calls before Run and after it
// are answered UNAVAILABLE.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	registryv1.RegisterRegistryServiceServer(r, s.server)
}

// Ready is closed when the store has been read completely for the first time.
func (s *Service) Ready() <-chan struct{} { return s.cache.Synced() }

// WaitReady waits until Ready is closed, or gives the error of ctx.
func (s *Service) WaitReady(ctx context.Context) error {
	select {
	case <-s.Ready():
		return nil
	case <-ctx.Done():
		return fmt.Errorf("registry: the store has not been read yet: %w", ctx.Err())
	}
}

// Run opens the store, keeps the copy in step with it until ctx ends, and
// closes everything in order: streams, the watch, calls under way, the client,
// the embedded server. It returns an error when the store cannot be opened at
// all or an embedded one stops by itself; an external etcd that is away is
// waited for. Run may be called once.
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
