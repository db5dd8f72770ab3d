package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcserver"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/services/cdn"
	"github.com/supernode-ha/supernode/services/registry"
	processes "github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
)

// fleet is CDNs with their registry and a source, and a scheduler that is none
// but a name: it claims tasks, and has them seeded when a test wants it.
type fleet struct {
	testing.TB
	origin   *origin.Origin
	endpoint string // of the registry
	registry registryv1.RegistryServiceClient
	stopDesk func()
	pool     *rpcclient.Pool
	replicas int

	ships        map[string]*ship
	stopRegistry func()
}

// ship is a CDN of a fleet.
type ship struct {
	cdnv1.CdnServiceClient
	id, home  string
	service   *cdn.Service
	announcer *cluster.Announcer
	view      *cluster.View
	metrics   *prometheus.Registry
	stop      func() // it leaves at once, without handing over
}

func newFleet(t testing.TB, replicas int) *fleet {
	t.Helper()
	o, err := origin.Start(origin.Config{})
	require.NoError(t, err)
	f := &fleet{TB: t, origin: o, ships: make(map[string]*ship), pool: rpcclient.NewPool("", nil), replicas: replicas}
	t.Cleanup(func() { require.NoError(t, errors.Join(f.pool.Close(), o.Close())) })
	// Nobody else takes its port at an address of its own while it is away.
	f.startRegistry(listenAt(t, processes.Net(t)(1)+":0"))
	conn, err := f.pool.Dial(f.endpoint)
	require.NoError(t, err)
	f.registry = registryv1.NewRegistryServiceClient(conn)
	f.stopDesk = f.run(func(ctx context.Context) error {
		m := cluster.Member{ID: "desk", Role: cluster.Scheduler, Endpoint: "127.0.0.1:1"}
		return cluster.NewAnnouncer(f.registry, m, zap.NewNop()).Run(ctx)
	})
	return f
}

func listenAt(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", address)
	require.NoError(t, err)
	return l
}

func logger(t testing.TB) *zap.Logger { return zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)) }

// run runs parts until it is stopped: they end in the opposite order.
func (f *fleet) run(parts ...func(context.Context) error) (stop func()) {
	var stops []func()
	for _, part := range parts {
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- part(ctx) }()
		stops = append(stops, func() {
			cancel()
			require.NoError(f.TB, <-ended)
		})
	}
	stop = sync.OnceFunc(func() {
		for i := range stops {
			stops[len(stops)-1-i]()
		}
	})
	f.Cleanup(stop)
	return stop
}

// startRegistry runs a registry with an empty store.
func (f *fleet) startRegistry(l net.Listener) {
	f.Helper()
	log, metrics := logger(f.TB), prometheus.NewRegistry()
	service, err := registry.New(registry.Config{
		EmbeddedDir: filepath.Join(f.TempDir(), "etcd"), LeaseTTL: lease, Replicas: f.replicas,
	}, registry.Deps{Logger: log, Metrics: metrics})
	require.NoError(f.TB, err)
	server, err := rpcserver.New(log, metrics)
	require.NoError(f.TB, err)
	service.Register(server)
	f.endpoint = l.Addr().String()
	f.stopRegistry = f.run(service.Run, func(ctx context.Context) error { return server.Run(ctx, l) })
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	require.NoError(f.TB, service.WaitReady(ctx))
}

// emptyStore replaces the registry by one that knows nothing.
func (f *fleet) emptyStore() {
	f.Helper()
	f.stopRegistry()
	f.startRegistry(listenAt(f.TB, f.endpoint))
}

// launch starts a CDN, on what is in home.
func (f *fleet) launch(id, home string, cfg cdn.Config) *ship {
	f.Helper()
	log := logger(f.TB)
	s := &ship{id: id, home: home, metrics: prometheus.NewRegistry()}
	rpc, download := listenAt(f.TB, "127.0.0.1:0"), listenAt(f.TB, "127.0.0.1:0")
	server, err := rpcserver.New(log, s.metrics)
	require.NoError(f.TB, err)
	s.view = cluster.NewView(f.registry, log)
	cfg.ID, cfg.HomeDir, cfg.DrainTimeout = id, home, 100*time.Millisecond
	s.service, err = cdn.New(cfg, cdn.Deps{
		Logger: zap.NewNop(), Metrics: s.metrics, Registry: f.registry, Download: download, Members: s.view, Dial: f.pool.Dial,
	})
	require.NoError(f.TB, err)
	s.service.Register(server)
	s.announcer = cluster.NewAnnouncer(f.registry, cluster.Member{
		ID: id, Role: cluster.CDN, Endpoint: rpc.Addr().String(),
		DownloadIP: "127.0.0.1", DownloadPort: int32(download.Addr().(*net.TCPAddr).Port),
	}, log)
	s.stop = f.run(func(ctx context.Context) error { return server.Run(ctx, rpc) }, s.view.Run, s.service.Run, s.announcer.Run)
	conn, err := f.pool.Dial(rpc.Addr().String())
	require.NoError(f.TB, err)
	s.CdnServiceClient = cdnv1.NewCdnServiceClient(conn)
	f.ships[id] = s
	f.until(func() error {
		for _, other := range f.ships {
			if _, there := other.view.Find(cluster.CDN, id); !there {
				return fmt.Errorf("%s does not see %s", other.id, id)
			}
		}
		return nil
	})
	return s
}

// sink stops a CDN: it leaves, and hands nothing over.
func (f *fleet) sink(id string) {
	f.Helper()
	f.ships[id].stop()
	delete(f.ships, id)
}

// quick replaces replicas soon after they are gone.
func quick() cdn.Config { return cdn.Config{ReplaceDelay: 100 * time.Millisecond} }

// until waits until what has no objection.
func (f *fleet) until(what func() error) {
	f.Helper()
	err := what()
	for deadline := time.Now().Add(2 * patience); err != nil && time.Now().Before(deadline); err = what() {
		<-time.After(5 * time.Millisecond)
	}
	require.NoError(f.TB, err)
}

func (f *fleet) context() context.Context {
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	f.Cleanup(cancel)
	return ctx
}

func (f *fleet) id(path string) string { return taskid.Compute(f.origin.URL(path), "", "", nil) }

func (f *fleet) record(path string) *registryv1.TaskRecord {
	f.Helper()
	resp, err := f.registry.GetTask(f.context(), &registryv1.GetTaskRequest{TaskId: f.id(path), Fresh: true})
	require.NoError(f.TB, err)
	return resp.GetRecord()
}

// claim gives a task to CDNs.
func (f *fleet) claim(path string) *registryv1.TaskRecord {
	f.Helper()
	var rec *registryv1.TaskRecord
	f.until(func() error {
		resp, err := f.registry.ResolveTask(f.context(), &registryv1.ResolveTaskRequest{
			TaskId: f.id(path), Url: f.origin.URL(path), SchedulerId: "desk",
		})
		rec = resp.GetRecord()
		return err // the desk may not be a member yet
	})
	return rec
}

// seed claims a task and has its owner fetch it.
func (f *fleet) seed(path string) *registryv1.TaskRecord {
	f.Helper()
	rec := f.claim(path)
	assert.NoError(f.TB, f.fetch(rec), path)
	return rec
}

func (f *fleet) fetch(rec *registryv1.TaskRecord) error {
	stream, err := f.ships[rec.GetOwner()].Seed(f.context(), &cdnv1.SeedRequest{
		TaskId: rec.GetTaskId(), Epoch: rec.GetEpoch(), Copies: rec.GetReplicas(), Source: &cdnv1.Source{Url: rec.GetUrl()},
	})
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// whole objects to a task of which not every CDN of the record has a copy, or
// that has not as many as it should.
func (f *fleet) whole(path string, copies int) error {
	resp, err := f.registry.GetTask(f.context(), &registryv1.GetTaskRequest{TaskId: f.id(path)})
	if err != nil {
		return err
	}
	rec := resp.GetRecord()
	at := append([]string{rec.GetOwner()}, rec.GetReplicas()...)
	if len(at) < copies {
		return fmt.Errorf("%s is at %v only", path, at)
	}
	for _, id := range at {
		s := f.ships[id]
		if s == nil {
			return fmt.Errorf("%s is at %s, which is gone", path, id)
		}
		stat, err := s.Stat(f.context(), &cdnv1.StatRequest{TaskId: rec.GetTaskId()})
		if err != nil || stat.GetResult() == nil {
			return fmt.Errorf("%s is not whole at %s: %w", path, id, err)
		}
	}
	return nil
}
