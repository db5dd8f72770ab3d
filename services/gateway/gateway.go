// Package gateway serves dfget's REST API to unmodified clients and forwards
// their calls to the schedulers over gRPC.
//
// All gateways are equal and any of them can serve any client, because a
// gateway keeps only bounded state in memory, and another gateway works without
// that state: the owners of tasks that it has learned, and the registrations
// that it has forwarded, which it replays to a scheduler that does not have
// them. One part of the state exists nowhere else: the reports that were
// acknowledged to a client before a scheduler received them. A gateway that is
// killed loses them, up to 10,000.
//
// The internal packages, each of which imports only those listed before it:
//
//   - request validates what a client sends
//   - dfgetcodec reads and writes dfget's JSON, forms and queries
//   - errmap maps an error to an answer, and says whether to retry
//   - admission limits the registrations of each client address
//   - registrations stores the forwarded registrations and replays them
//   - reportqueue stores the reports that no scheduler has received yet
//   - reportbatch sends the reports to one scheduler in batches
//   - route finds the scheduler of a task and calls it
//   - dfget implements the calls
//   - rest is the HTTP server
package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/buildinfo"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/services/gateway/internal/admission"
	"github.com/supernode-ha/supernode/services/gateway/internal/dfget"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
	"github.com/supernode-ha/supernode/services/gateway/internal/reportbatch"
	"github.com/supernode-ha/supernode/services/gateway/internal/reportqueue"
	"github.com/supernode-ha/supernode/services/gateway/internal/rest"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
)

const (
	// clientLimit is how long dfget waits for the answer to any call.
	clientLimit = 5 * time.Second

	defaultMaxHold      = 3 * time.Second
	defaultCallBudget   = 4 * time.Second
	defaultMaxBodyBytes = 1 << 20

	defaultMaxRegistrations = 1000
)

// The bounds of the stored registrations. A peer that is downloading pulls every
// few seconds, so a peer without a call for registrationIdle has stopped.
const (
	registrationEntries = 100_000
	registrationBytes   = 128 << 20
	registrationIdle    = 30 * time.Minute
	registrationLinger  = time.Minute
)

// The bounds of the queued reports. An older report no longer describes the
// state of its peer, and after a longer outage the peer's next pulls carry most
// of what the expired reports contained.
const (
	reportEntries = 10_000
	reportKeep    = 2 * time.Minute
	// reportKeepUnknown is shorter, because a real peer pulls right after it
	// has reported a piece, and that pull makes it known to its scheduler. A peer
	// that is still unknown afterwards probably does not exist.
	reportKeepUnknown = 10 * time.Second
	// reportAttempt limits one attempt to send a queued report. It may be long,
	// because no client waits for it.
	reportAttempt = 4 * time.Second
)

// Members lists the schedulers of the cluster. A cluster.View implements it.
type Members = route.Members

// Config holds what an operator can set. A zero value selects the default.
type Config struct {
	// ID identifies this gateway in logs.
	ID string
	// Version is the version that heartbeats of resident clients are answered with.
	Version string
	// MaxHold is how long a pull is held while there is no piece to offer; 3 s
	// by default. If it is negative, pulls are not held.
	MaxHold time.Duration
	// CallBudget is how long a call may take, including all attempts; 4 s by
	// default. It must be above MaxHold and below the 5 s that dfget waits.
	CallBudget time.Duration
	// MaxRegistrations is how many registrations per second each client address may
	// make over REST; 1000 by default. If it is negative, there is no limit.
	MaxRegistrations int
	// Profiler enables /debug/pprof/.
	Profiler bool
	// MaxBodyBytes limits the body of a request; 1 MiB by default.
	MaxBodyBytes int64
}

// ConfigFrom returns the part of the settings that applies to a gateway.
func ConfigFrom(id string, s *settings.Settings) Config {
	hold := s.HoldTime
	if hold == 0 {
		hold = -1 // the setting 0 disables holding; 0 in Config would select the default
	}
	registrations := s.MaxRegistrations
	if registrations == 0 {
		registrations = -1 // in the settings, 0 is no limit
	}
	return Config{
		ID: id, Version: buildinfo.Get().Version, MaxHold: hold, MaxRegistrations: registrations, Profiler: s.Profiler,
	}
}

// Deps holds what a gateway depends on. Only Ready is optional.
type Deps struct {
	// Logger, Metrics and Gatherer are those of the process.
	Logger   *zap.Logger
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	// Members lists the schedulers of the cluster as last seen.
	Members Members
	// Dial returns the connection to a scheduler's endpoint. The caller of New
	// owns the connections and closes them.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
	// REST is the listener that clients connect to. Run closes it.
	REST net.Listener
	// Ready reports whether requests can be served; nil means always.
	Ready func(ctx context.Context) error
}

// Service is a gateway.
type Service struct {
	listener net.Listener
	log      *zap.Logger
	calls    *dfget.Service
	batches  *reportbatch.Batcher
	reports  *reportqueue.Queue
	server   *rest.Server
}

// New creates a gateway. It serves no requests before Run.
func New(cfg Config, deps Deps) (*Service, error) {
	cfg = cfg.withDefaults()
	if err := errors.Join(cfg.check(), deps.check()); err != nil {
		return nil, fmt.Errorf("creating the gateway: %w", err)
	}
	metrics := &rollbackRegisterer{Registerer: deps.Metrics}
	deps.Metrics = metrics
	s, err := build(cfg, deps)
	if err != nil {
		metrics.rollback()
		return nil, fmt.Errorf("creating the gateway: %w", err)
	}
	return s, nil
}

func build(cfg Config, deps Deps) (*Service, error) {
	log := deps.Logger.With(zap.String("gateway_id", cfg.ID))
	batches, err := reportbatch.New(deps.Dial)
	if err != nil {
		return nil, err
	}
	router, err := route.New(deps.Members, batches.Dial, log, deps.Metrics)
	if err != nil {
		return nil, err
	}
	store, err := registrations.New(registrations.Config{
		Entries: registrationEntries, Bytes: registrationBytes, Idle: registrationIdle, Linger: registrationLinger,
	}, deps.Metrics)
	if err != nil {
		return nil, err
	}
	queue, err := reportqueue.New(reportqueue.Config{
		Entries: reportEntries, Keep: reportKeep, KeepUnknown: reportKeepUnknown, Attempt: reportAttempt,
	}, deps.Metrics)
	if err != nil {
		return nil, err
	}
	calls := dfget.New(dfget.Config{Version: cfg.Version, MaxHold: cfg.MaxHold, CallBudget: cfg.CallBudget}, router, store, queue)
	limiter, err := admission.New(cfg.MaxRegistrations, deps.Metrics)
	if err != nil {
		return nil, err
	}
	handler, err := rest.NewHandler(
		rest.Config{Profiler: cfg.Profiler, MaxBody: cfg.MaxBodyBytes},
		rest.Deps{Service: calls, Limiter: limiter, Log: log, Metrics: deps.Metrics, Gatherer: deps.Gatherer, Ready: deps.Ready},
	)
	if err != nil {
		return nil, err
	}
	return &Service{
		listener: deps.REST, log: log, calls: calls, batches: batches, reports: queue,
		server: rest.NewServer(handler, log, cfg.CallBudget, calls.Release),
	}, nil
}

// Register registers dfget's calls on a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { dfgetv1.RegisterDfgetServiceServer(r, s.calls) }

// Run serves clients until ctx ends. Then it stops accepting connections,
// answers the held pulls with a wait, waits for the other calls, and makes one
// last attempt to send each queued report. It returns at most about three
// seconds after the call budget has passed.
func (s *Service) Run(ctx context.Context) error {
	s.log.Info("serving REST", zap.Stringer("address", s.listener.Addr()))
	queueCtx, end := context.WithCancel(context.WithoutCancel(ctx)) // calls queue reports until the server has stopped
	var work sync.WaitGroup
	work.Go(func() { s.reports.Run(queueCtx) })
	err := s.server.Run(ctx, s.listener)
	end()
	work.Wait()
	s.batches.Close()
	s.log.Info("gateway stopped", zap.Error(err))
	return err
}

func (c Config) withDefaults() Config {
	switch {
	case c.MaxHold == 0:
		c.MaxHold = defaultMaxHold
	case c.MaxHold < 0:
		c.MaxHold = 0
	}
	switch {
	case c.MaxRegistrations == 0:
		c.MaxRegistrations = defaultMaxRegistrations
	case c.MaxRegistrations < 0:
		c.MaxRegistrations = 0
	}
	if c.CallBudget == 0 {
		c.CallBudget = defaultCallBudget
	}
	if c.MaxBodyBytes == 0 {
		c.MaxBodyBytes = defaultMaxBodyBytes
	}
	return c
}

func (c Config) check() error {
	switch {
	case c.CallBudget <= c.MaxHold, c.CallBudget >= clientLimit:
		return fmt.Errorf("hold %s and call budget %s: want hold < call budget < %s", c.MaxHold, c.CallBudget, clientLimit)
	case c.MaxBodyBytes < 0:
		return fmt.Errorf("body limit %d is negative", c.MaxBodyBytes)
	}
	return nil
}

func (d Deps) check() error {
	if d.Logger == nil || d.Metrics == nil || d.Gatherer == nil || d.Members == nil || d.Dial == nil || d.REST == nil {
		return errors.New("logger, metrics, gatherer, members, dial and REST listener are required")
	}
	return nil
}

// rollbackRegisterer records the collectors registered through it, so that New
// can unregister them when it fails.
type rollbackRegisterer struct {
	prometheus.Registerer
	registered []prometheus.Collector
}

// Register implements prometheus.Registerer.
func (r *rollbackRegisterer) Register(c prometheus.Collector) error {
	if err := r.Registerer.Register(c); err != nil {
		return err
	}
	r.registered = append(r.registered, c)
	return nil
}

func (r *rollbackRegisterer) rollback() {
	for _, c := range r.registered {
		r.Unregister(c)
	}
}
