// Package cdn is the CDN service. It fetches each task from its source once, whatever the
// number of requests, stores it in a cache directory with the layout of Dragonfly v1,
// serves its pieces over HTTP, and sends the events of its tasks on streams of CdnService.
// It decides neither which peer downloads which piece from where, which is the work of the
// scheduler, nor which instance owns a task, which is the work of the registry.
//
// Its internal packages:
//
//	rpc         validates requests and sends events to listeners
//	engine      holds the tasks in memory and runs at most one fetch or copy of each
//	fetch       gets the pieces from the disk, the source and other CDNs, and checks them
//	source      makes HTTP requests to sources
//	copies      reads the copies of other CDNs
//	store       stores the files of tasks on disk
//	download    serves the pieces to peers and other CDNs
//	reconciler  watches the records that name this instance, and passes them to the engine
//	report      reports the states of fetches to the registry
//	capacity    divides the transfers that this instance can send among schedulers
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

// New creates an instance. It starts no goroutines; Run does.
func New(cfg Config, deps Deps) (*Service, error) {
	cfg, err := cfg.complete()
	if err := errors.Join(err, deps.check()); err != nil {
		return nil, fmt.Errorf("configuring the cdn: %w", err)
	}
	log := deps.Logger.With(zap.String("cdn_id", cfg.ID))
	files, err := store.Open(cfg.HomeDir, cfg.DiskTimeout)
	if err != nil {
		return nil, fmt.Errorf("opening the home directory of the cdn: %w", err)
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
		members = cluster.NewView(deps.Registry, log) // stays empty, because its Run is not called
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
		return nil, fmt.Errorf("creating the engine: %w", err)
	}
	server := download.New(log, tasks, cfg.DrainTimeout, cfg.MaxUploadBandwidth)
	hub := capacity.New(server.Sent)
	err = register(deps.Metrics, fetcher.Collectors(), tasks.Collectors(), server.Collectors(), records.Collectors(), hub.Collectors())
	if err != nil {
		return nil, fmt.Errorf("registering the metrics of the cdn: %w", err)
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

// Run serves until ctx ends. Then it stops fetches and ends streams at once, finishes
// transfers to peers within DrainTimeout, sends the pending reports to the registry, and
// closes the cache directory. It must be called once.
func (s *Service) Run(ctx context.Context) error {
	// The reporter is stopped last, so that it sends the reports of the fetches that end.
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
	_ = reporter.Wait() // always returns nil
	s.tasks.Close()
	s.client.Close()
	s.others.Close()
	err = errors.Join(err, s.files.Close())
	s.log.Info("stopped")
	return err
}

// Handover moves the tasks that this instance owns to other CDNs and waits until those
// have copies. It must be called while Run runs, before the instance stops. It returns at
// once if no other CDN accepts tasks, and an error if ctx ends before all copies are
// complete.
func (s *Service) Handover(ctx context.Context) error { return s.reconciler.Handover(ctx) }

// register registers all collectors. If one of them fails, it unregisters the others.
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
