// Package cdn is the CDN service: it fetches a task from its source once,
// however many ask, keeps it in a cache directory of Dragonfly v1's layout,
// and serves its pieces over HTTP. What it tells of a task it tells on the
// stream of CdnService.Seed. It does not decide who fetches which piece from
// whom, nor which instance a task belongs to.
//
// The way of a task through the packages: rpc checks the request, engine begins
// the task's only fetch and keeps what happened for all listeners, fetch
// decides between disk and source and cuts what comes, store keeps it,
// download serves it, report tells the registry, capacity divides what can be
// sent among schedulers. reconciler follows the records
// that name the instance, and has the engine own, copy and let go accordingly.
package cdn

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/cdn/internal/capacity"
	"github.com/supernode-ha/supernode/services/cdn/internal/copies"
	"github.com/supernode-ha/supernode/services/cdn/internal/download"
	"github.com/supernode-ha/supernode/services/cdn/internal/engine"
	"github.com/supernode-ha/supernode/services/cdn/internal/fetch"
	"github.com/supernode-ha/supernode/services/cdn/internal/reconciler"
	"github.com/supernode-ha/supernode/services/cdn/internal/report"
	"github.com/supernode-ha/supernode/services/cdn/internal/rpc"
	"github.com/supernode-ha/supernode/services/cdn/internal/source"
	"github.com/supernode-ha/supernode/services/cdn/internal/store"
)

// Service is one CDN instance.
type Service struct {
	log        *zap.Logger
	listener   net.Listener
	files      *store.Store
	client     *source.Client
	others     *copies.Client
	reporter   *report.Reporter
	reconciler *reconciler.Reconciler
	tasks      *engine.Engine
	download   *download.Server
	capacity   *capacity.Hub
}

// New makes an instance; nothing runs before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	cfg, err := cfg.complete()
	if err := errors.Join(err, deps.check()); err != nil {
		return nil, fmt.Errorf("configuring the cdn: %w", err)
	}
	log := deps.Logger.With(zap.String("cdn_id", cfg.ID))
	files, err := store.Open(cfg.HomeDir, cfg.DiskTimeout)
	if err != nil {
		return nil, fmt.Errorf("opening the cdn's home: %w", err)
	}
	s, err := build(log, cfg, deps, files)
	if err != nil {
		return nil, errors.Join(err, files.Close())
	}
	return s, nil
}

func build(log *zap.Logger, cfg Config, deps Deps, files *store.Store) (*Service, error) {
	members := deps.Members
	if members == nil {
		members = cluster.NewView(deps.Registry, log) // stays empty
	}
	records := reconciler.New(cfg.ID, reconciler.Options{ReplaceDelay: cfg.ReplaceDelay},
		reconciler.Deps{Logger: log, Registry: deps.Registry, Members: members, Dial: deps.Dial})
	client := source.NewClient(source.Timeouts{Connect: cfg.ConnectTimeout, Idle: cfg.IdleTimeout})
	others := copies.New(copies.Deps{
		Member: func(id string) (cluster.Member, bool) { return members.Find(cluster.CDN, id) },
		Dial:   deps.Dial, Timeout: cfg.CopyTimeout, AnswerTimeout: cfg.AnswerTimeout,
	})
	fetcher := fetch.NewFetcher(log, files, client, others, fetch.Options{
		MaxBandwidth: cfg.MaxBandwidth, PoolSize: cfg.PoolSize,
		FactsTimeout: cfg.FactsTimeout, RetryDelay: cfg.RetryDelay,
		PauseLimit: cfg.PauseLimit, StillOwner: records.StillOwner,
	})
	reporter := report.New(log, deps.Registry, cfg.ID, records.Stale)
	tasks, err := engine.New(engine.Deps{
		Logger: log, Files: files, Fetcher: fetcher, Reporter: reporter, Losses: records,
	})
	if err != nil {
		return nil, fmt.Errorf("making the engine: %w", err)
	}
	server := download.New(log, tasks, cfg.DrainTimeout, cfg.MaxUploadBandwidth)
	hub := capacity.New(server.Sent)
	err = register(deps.Metrics, fetcher.Collectors(), tasks.Collectors(), server.Collectors(), records.Collectors(), hub.Collectors())
	if err != nil {
		return nil, fmt.Errorf("registering the cdn's metrics: %w", err)
	}
	return &Service{
		log: log, listener: deps.Download, files: files, client: client, others: others,
		reporter: reporter, reconciler: records, tasks: tasks, download: server, capacity: hub,
	}, nil
}

// Register adds CdnService to a gRPC server.
func (s *Service) Register(server grpc.ServiceRegistrar) {
	cdnv1.RegisterCdnServiceServer(server, rpc.New(s.tasks, s.capacity))
}

// Run serves until ctx ends: then fetches and the streams that listen to them
// end at once, transfers to peers are finished within DrainTimeout, and the
// registry is told what is still to be told. It is called once.
func (s *Service) Run(ctx context.Context) error {
	// The reporter goes last, because ending fetches is news, too.
	reporting, stopReporting := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReporting()
	var reporter errgroup.Group
	reporter.Go(func() error {
		s.reporter.Run(reporting)
		return nil
	})
	s.log.Info("serving pieces", zap.String("address", s.listener.Addr().String()))
	work, ctx := errgroup.WithContext(ctx)
	work.Go(func() error { return s.download.Serve(ctx, s.listener) })
	work.Go(func() error {
		s.tasks.Run(ctx)
		return nil
	})
	work.Go(func() error {
		s.reconciler.Run(ctx, s.tasks)
		return nil
	})
	work.Go(func() error {
		s.capacity.Run(ctx)
		return nil
	})
	err := work.Wait()
	stopReporting()
	_ = reporter.Wait() // has no errors
	s.tasks.Close()
	s.client.Close()
	s.others.Close()
	err = errors.Join(err, s.files.Close())
	s.log.Info("stopped")
	return err
}

// Handover makes other CDNs the owners of the tasks that this one owns, and
// waits until they have copies. It is called while Run runs, when the instance
// is about to leave, and returns at once when there is no other CDN. The error
// tells what is not whole elsewhere when ctx ends.
func (s *Service) Handover(ctx context.Context) error { return s.reconciler.Handover(ctx) }

// register registers all of them or none.
func register(metrics prometheus.Registerer, sets ...[]prometheus.Collector) error {
	var done []prometheus.Collector
	for _, set := range sets {
		for _, c := range set {
			if err := metrics.Register(c); err != nil {
				for _, d := range done {
					metrics.Unregister(d)
				}
				return err
			}
			done = append(done, c)
		}
	}
	return nil
}
