// Package gateway is the service that unmodified clients talk to: it answers
// dfget's REST surface on top of the schedulers' gRPC. Any number of gateways
// are equal, since what one keeps is memory, bounded, and what another can do
// without: who owns which task, and the registrations that it has forwarded, to
// repeat them where they were forgotten. Only the reports that it has
// acknowledged before a scheduler had them are nowhere else: a gateway that is
// killed takes up to 10,000 of them with it.
//
// The packages below are request (what may be asked), dfgetcodec (how it is
// written), errmap (what an error means), registrations (who has registered), reportqueue
// (reports that no scheduler has yet), route (which scheduler to ask), dfget
// (the calls) and rest (the HTTP server). Each knows only those that are named
// before it.
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
	"github.com/supernode-ha/supernode/services/gateway/internal/dfget"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
	"github.com/supernode-ha/supernode/services/gateway/internal/reportqueue"
	"github.com/supernode-ha/supernode/services/gateway/internal/rest"
	"github.com/supernode-ha/supernode/services/gateway/internal/route"
)

const (
	// clientLimit is how long dfget waits for any answer.
	clientLimit = 5 * time.Second

	defaultMaxHold      = 3 * time.Second
	defaultCallBudget   = 4 * time.Second
	defaultMaxBodyBytes = 1 << 20
)

// Registrations are remembered within these bounds. Peers pull every few
// seconds; one that is not heard of for so long is not downloading any more.
const (
	registrationEntries = 100_000
	registrationBytes   = 128 << 20
	registrationIdle    = 30 * time.Minute
	registrationLinger  = time.Minute
)

// Reports that no scheduler could be given are kept within these bounds. What
// is older says little of now; of what is lost in an outage that takes longer
// the next pulls tell most.
const (
	reportEntries = 10_000
	reportKeep    = 2 * time.Minute
	// A peer that no scheduler knows pulls when it has reported a piece, and is
	// known then. Ids that somebody made up are not worth more calls.
	reportKeepUnknown = 10 * time.Second
	// reportAttempt is how long one attempt may take: no client waits for it.
	reportAttempt = 4 * time.Second
)

// Members is who is in the cluster, as far as a gateway wants to know; a
// cluster.View is one.
type Members = route.Members

// Config is what an operator decides. Zero values stand for the defaults.
type Config struct {
	// ID names this gateway in logs.
	ID string
	// Version is told to resident clients.
	Version string
	// MaxHold is how long a pull with nothing to give is held; 3 s by default,
	// not at all when it is negative.
	MaxHold time.Duration
	// CallBudget is how long any call may take, with all its attempts; 4 s by
	// default. It is above MaxHold and below the 5 s that dfget waits.
	CallBudget time.Duration
	// Profiler serves /debug/pprof/.
	Profiler bool
	// MaxBodyBytes bounds the body of a request; 1 MiB by default.
	MaxBodyBytes int64
}

// ConfigFrom takes from the settings what concerns a gateway.
func ConfigFrom(id string, s *settings.Settings) Config {
	hold := s.HoldTime
	if hold == 0 {
		hold = -1 // asked for, and not the default
	}
	return Config{ID: id, Version: buildinfo.Get().Version, MaxHold: hold, Profiler: s.Profiler}
}

// Deps is what a gateway is given; only Ready may be left out.
type Deps struct {
	// Logger, Metrics and Gatherer are those of the process.
	Logger   *zap.Logger
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	// Members gives the schedulers of the cluster as last seen.
	Members Members
	// Dial gives the connection to a scheduler's endpoint. The connections
	// are kept and closed by whoever made Dial.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
	// REST is where clients connect. Run closes it.
	REST net.Listener
	// Ready tells whether requests can be served; nil means always.
	Ready func(ctx context.Context) error
}

// Service is a gateway.
type Service struct {
	listener net.Listener
	log      *zap.Logger
	calls    *dfget.Service
	reports  *reportqueue.Queue
	server   *rest.Server
}

// New makes a gateway that serves nothing until Run.
func New(cfg Config, deps Deps) (*Service, error) {
	cfg = cfg.withDefaults()
	if err := errors.Join(cfg.check(), deps.check()); err != nil {
		return nil, fmt.Errorf("making the gateway: %w", err)
	}
	metrics := &rollbackRegisterer{Registerer: deps.Metrics}
	deps.Metrics = metrics
	s, err := build(cfg, deps)
	if err != nil {
		metrics.rollback()
		return nil, fmt.Errorf("making the gateway: %w", err)
	}
	return s, nil
}

func build(cfg Config, deps Deps) (*Service, error) {
	log := deps.Logger.With(zap.String("gateway_id", cfg.ID))
	router, err := route.New(deps.Members, deps.Dial, log, deps.Metrics)
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
	handler, err := rest.NewHandler(
		rest.Config{Profiler: cfg.Profiler, MaxBody: cfg.MaxBodyBytes},
		rest.Deps{Service: calls, Log: log, Metrics: deps.Metrics, Gatherer: deps.Gatherer, Ready: deps.Ready},
	)
	if err != nil {
		return nil, err
	}
	return &Service{
		listener: deps.REST, log: log, calls: calls, reports: queue,
		server: rest.NewServer(handler, log, cfg.CallBudget, calls.Release),
	}, nil
}

// Register adds the calls of clients to a gRPC server.
func (s *Service) Register(r grpc.ServiceRegistrar) { dfgetv1.RegisterDfgetServiceServer(r, s.calls) }

// Run serves clients until ctx ends. Then it accepts nobody, answers pulls that
// are being held with a wait, and returns when all else has been answered and
// late reports were tried once more, at the latest about three seconds after
// the call budget.
func (s *Service) Run(ctx context.Context) error {
	s.log.Info("gateway serves REST", zap.Stringer("address", s.listener.Addr()))
	queueCtx, end := context.WithCancel(context.WithoutCancel(ctx)) // the last ones come while the server stops
	var work sync.WaitGroup
	work.Go(func() { s.reports.Run(queueCtx) })
	err := s.server.Run(ctx, s.listener)
	end()
	work.Wait()
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

// rollbackRegisterer remembers what was registered through it, so that a gateway
// that could not be made leaves nothing behind.
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
