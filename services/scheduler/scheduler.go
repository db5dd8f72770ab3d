// Package scheduler tracks the peers and pieces of every task and tells each peer
// which pieces to download next and from which source.
//
// Its memory is all that it has: one goroutine a task (internal/task) owns
// that task's state (internal/swarm); internal/taskmanager keeps the tasks;
// internal/replication tells their standbys of them; internal/follower learns of pieces
// from the CDNs that have copies; internal/resolver asks the registry who has a
// task, internal/health who answers, and which CDNs do, here and at
// another scheduler, internal/capacity how many transfers each may have under
// way. It never touches the bytes of a file, nor etcd.
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

// Config is what a scheduler can be told.
type Config struct {
	// ID is the scheduler's member id.
	ID string
	// UpLimit is how many pieces a peer sends at the same time, at least 1.
	UpLimit int
	// DownLimit is how many pieces a peer fetches at the same time, at least 1.
	DownLimit int
	// FailAccessInterval is how long a source that refused is left alone.
	FailAccessInterval time.Duration
	// GCInitialDelay and GCInterval (above 0) are when what is old is looked for.
	GCInitialDelay time.Duration
	GCInterval     time.Duration
	// TaskExpireTime is how long a task is kept that nobody asks for, above 0.
	TaskExpireTime time.Duration
	// PeerGCDelay is how long a peer is kept after it left.
	PeerGCDelay time.Duration
}

// ConfigFrom takes from the settings what concerns a scheduler.
func ConfigFrom(id string, s *settings.Settings) Config {
	return Config{
		ID: id, UpLimit: s.UpLimit, DownLimit: s.DownLimit,
		FailAccessInterval: s.FailAccessInterval, GCInitialDelay: s.GCInitialDelay, GCInterval: s.GCMetaInterval,
		TaskExpireTime: s.TaskExpireTime, PeerGCDelay: s.PeerGCDelay,
	}
}

// Deps are what a scheduler needs; all of them are required.
type Deps struct {
	Logger   *zap.Logger
	Metrics  prometheus.Registerer
	Registry registryv1.RegistryServiceClient
	// Members must see schedulers and CDNs.
	Members *cluster.View
	// Dial connects to a member's endpoint; it keeps the connections.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
}

// Service is a scheduler.
type Service struct {
	tasks    *taskmanager.Manager
	rpc      *rpc.Server
	exchange *capacity.Exchange
	log      *zap.Logger
}

// New makes a scheduler; Run must follow.
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
		TaskExpireTime: cfg.TaskExpireTime, PeerGCDelay: cfg.PeerGCDelay,
	}, taskmanager.Deps{
		Log: deps.Logger, Follower: follower, StandbyStore: standby, Replicator: replicator, Reachability: reachability,
		Task: task.Deps{
			Log: deps.Logger, Limits: swarm.Limits{Up: cfg.UpLimit, Down: cfg.DownLimit},
			Capacity: exchange.Shares, Stats: stats,
		},
	})
	server, err := rpc.New(tasks, standby, reachability, deps.Metrics)
	if err != nil {
		return nil, fmt.Errorf("scheduler: registering metrics: %w", err)
	}
	return &Service{tasks: tasks, rpc: server, exchange: exchange, log: deps.Logger}, nil
}

// newExchange returns what shares the CDNs' capacity with other schedulers.
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

// newFollower puts together what follows the CDNs.
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

func check(cfg Config, deps Deps) error {
	switch {
	case cfg.ID == "":
		return errors.New("the id is empty")
	case cfg.UpLimit < 1 || cfg.DownLimit < 1:
		return fmt.Errorf("limits of %d up and %d down: both must be at least 1", cfg.UpLimit, cfg.DownLimit)
	case cfg.GCInterval <= 0 || cfg.TaskExpireTime <= 0 || cfg.GCInitialDelay < 0 || cfg.PeerGCDelay < 0 || cfg.FailAccessInterval < 0:
		return errors.New("an interval is negative, or 0 where it must not be")
	case deps.Logger == nil || deps.Metrics == nil || deps.Registry == nil || deps.Members == nil || deps.Dial == nil:
		return errors.New("a dependency is missing")
	}
	return nil
}

// Register adds the scheduler to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	schedulerv1.RegisterSchedulerServiceServer(r, s.rpc)
}

// Run works until ctx ends; then held pulls are let go and all tasks ended.
func (s *Service) Run(ctx context.Context) error {
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error {
		s.exchange.Run(ctx)
		return nil
	})
	work.Go(func() error { return s.tasks.Run(ctx) })
	return work.Wait()
}
