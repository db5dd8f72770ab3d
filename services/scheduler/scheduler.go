// Package scheduler tracks the peers and pieces of every task and tells each peer
// which pieces to download next and from which source.
//
// It keeps all state in memory and has these packages:
//
//   - internal/rpc implements the gRPC API.
//   - internal/taskmanager creates, finds and ends tasks, takes them over from dead
//     schedulers and hands them over to standbys.
//   - internal/task runs one goroutine per task, which owns the task's internal/swarm:
//     its peers, pieces and transfers.
//   - internal/follower follows a task's CDN copies. internal/resolver resolves the
//     task to its owner, its replicas and its scheduler.
//   - internal/replication replicates the tasks to their standbys and holds the
//     replicas of other schedulers' tasks.
//   - internal/health decides which instances are alive.
//   - internal/capacity divides what CDN instances may send among the tasks.
//   - internal/ids checks the ids that clients and other schedulers send.
//
// A scheduler never reads or writes the content of a file, and never accesses etcd.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/replication"
	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
	"github.com/supernode-ha/supernode/services/scheduler/internal/rpc"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
	"github.com/supernode-ha/supernode/services/scheduler/internal/taskmanager"
)

// Config holds the settings of a scheduler.
type Config struct {
	// ID is the scheduler's member id.
	ID string
	// UpLimit is the number of pieces that a peer sends at the same time, at least 1.
	UpLimit int
	// DownLimit is the number of pieces that a peer downloads at the same time, at
	// least 1.
	DownLimit int
	// FailAccessInterval is the time after a failure of the source during which the
	// same request is refused without asking the source again.
	FailAccessInterval time.Duration
	// GCInitialDelay is the delay before the first garbage collection, and GCInterval
	// (above 0) the interval of the following ones.
	GCInitialDelay time.Duration
	GCInterval     time.Duration
	// TaskExpireTime is the time without a call after which a task is removed. It is
	// above 0.
	TaskExpireTime time.Duration
	// PeerGCDelay is how long a peer is kept after it has left.
	PeerGCDelay time.Duration
	// MaxPeersPerTask and MaxTasks are the numbers of peers of a task, and of tasks,
	// from which on registrations add no other one; 0 for no bound.
	MaxPeersPerTask int
	MaxTasks        int
}

// ConfigFrom returns the scheduler's part of the settings.
func ConfigFrom(id string, s *settings.Settings) Config {
	return Config{
		ID: id, UpLimit: s.UpLimit, DownLimit: s.DownLimit,
		FailAccessInterval: s.FailAccessInterval, GCInitialDelay: s.GCInitialDelay, GCInterval: s.GCMetaInterval,
		TaskExpireTime: s.TaskExpireTime, PeerGCDelay: s.PeerGCDelay,
		MaxPeersPerTask: s.MaxPeersPerTask, MaxTasks: s.MaxTasks,
	}
}

// Deps holds the dependencies of a scheduler. All are required.
type Deps struct {
	Logger   *zap.Logger
	Metrics  prometheus.Registerer
	Registry registryv1.RegistryServiceClient
	// Members must include schedulers and CDNs.
	Members *cluster.View
	// Dial connects to a member's endpoint. It keeps the connections.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
}

// Service is a scheduler.
type Service struct {
	tasks    *taskmanager.Manager
	rpc      *rpc.Server
	exchange *capacity.Exchange
	log      *zap.Logger
}

// New returns a scheduler. The caller must call Run.
func New(cfg Config, deps Deps) (*Service, error) {
	if err := check(cfg, deps); err != nil {
		return nil, fmt.Errorf("scheduler: %w", err)
	}
	stats, err := task.NewStats(deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("scheduler: registering metrics: %w", err)
	}
	follower, err := newFollower(cfg, deps)
	if err != nil {
		return nil, fmt.Errorf("scheduler: registering metrics: %w", err)
	}
	standby, err := replication.NewStandbyStore(deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("scheduler: registering metrics: %w", err)
	}
	replicator, err := replication.NewReplicator(replication.Deps{
		SelfID: cfg.ID, Members: deps.Members, Dial: deps.Dial, Log: deps.Logger, Metrics: deps.Metrics,
	})
	if err != nil {
		return nil, fmt.Errorf("scheduler: registering metrics: %w", err)
	}
	exchange, err := newExchange(cfg, deps)
	if err != nil {
		return nil, fmt.Errorf("scheduler: registering metrics: %w", err)
	}
	reachability := health.NewReachability(follower.Health, deps.Members, deps.Dial)
	tasks := taskmanager.New(context.Background(), taskmanager.Config{
		FailAccessInterval: cfg.FailAccessInterval, GCInitialDelay: cfg.GCInitialDelay, GCInterval: cfg.GCInterval,
		TaskExpireTime: cfg.TaskExpireTime, PeerGCDelay: cfg.PeerGCDelay, MaxTasks: cfg.MaxTasks,
	}, taskmanager.Deps{
		Log: deps.Logger, Follower: follower, StandbyStore: standby, Replicator: replicator, Reachability: reachability,
		Task: task.Deps{
			Log: deps.Logger, Limits: swarm.Limits{Up: cfg.UpLimit, Down: cfg.DownLimit}, MaxPeers: cfg.MaxPeersPerTask,
			Capacity: exchange.Shares, Stats: stats,
		},
	})
	server, err := rpc.New(tasks, standby, reachability, deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("scheduler: registering metrics: %w", err)
	}
	return &Service{tasks: tasks, rpc: server, exchange: exchange, log: deps.Logger}, nil
}

// newExchange returns the exchange that shares the capacity of CDNs with other
// schedulers.
func newExchange(cfg Config, deps Deps) (*capacity.Exchange, error) {
	shares := capacity.NewShares()
	for _, c := range shares.Collectors() {
		if err := deps.Metrics.Register(c); err != nil {
			return nil, err
		}
	}
	return capacity.NewExchange(capacity.DefaultTiming(), capacity.ExchangeDeps{
		SelfID: cfg.ID, Shares: shares, Members: deps.Members, Dial: deps.Dial, Log: deps.Logger,
	}), nil
}

// newFollower returns the follower, with its resolver and its monitor. The resolver has
// a monitor of its own, whose suspects are schedulers.
func newFollower(cfg Config, deps Deps) (*follower.Follower, error) {
	monitor := health.New(health.Default(), deps.Dial, deps.Logger)
	stats, err := follower.NewStats(deps.Metrics, monitor)
	if err != nil {
		return nil, err
	}
	taskResolver := resolver.New(resolver.Deps{
		SelfID: cfg.ID, Registry: deps.Registry, Schedulers: health.New(health.Default(), deps.Dial, deps.Logger), Log: deps.Logger,
		CDNs:          func() []cluster.Member { return deps.Members.Members(cluster.CDN) },
		FindScheduler: func(id string) (cluster.Member, bool) { return deps.Members.Find(cluster.Scheduler, id) },
		TookOver:      func() { stats.TakeOver(follower.CauseScheduler) },
	})
	return &follower.Follower{Resolver: taskResolver, Health: monitor, Dial: deps.Dial, Stats: stats, Log: deps.Logger}, nil
}

// check returns an error if a setting is invalid or a dependency is missing.
func check(cfg Config, deps Deps) error {
	switch {
	case cfg.ID == "":
		return errors.New("the id is empty")
	case cfg.UpLimit < 1 || cfg.DownLimit < 1:
		return fmt.Errorf("limits of %d pieces up and %d pieces down: both must be at least 1", cfg.UpLimit, cfg.DownLimit)
	case cfg.GCInterval <= 0 || cfg.TaskExpireTime <= 0 || cfg.GCInitialDelay < 0 || cfg.PeerGCDelay < 0 || cfg.FailAccessInterval < 0:
		return errors.New("an interval is negative, or GCInterval or TaskExpireTime is 0")
	case cfg.MaxPeersPerTask < 0 || cfg.MaxTasks < 0:
		return fmt.Errorf("bounds of %d peers a task and %d tasks: neither may be negative", cfg.MaxPeersPerTask, cfg.MaxTasks)
	case deps.Logger == nil || deps.Metrics == nil || deps.Registry == nil || deps.Members == nil || deps.Dial == nil:
		return errors.New("a dependency is missing")
	}
	return nil
}

// Register registers the scheduler's API with a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	schedulerv1.RegisterSchedulerServiceServer(r, s.rpc)
}

// Run runs the scheduler until ctx ends. Then it releases held pulls and ends all tasks.
func (s *Service) Run(ctx context.Context) error {
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		s.exchange.Run(ctx)
		return nil
	})
	work.Go(func() error { return s.tasks.Run(ctx) })
	return work.Wait()
}
