package integration

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcserver"
	"github.com/supernode-ha/supernode/services/cdn"
	"github.com/supernode-ha/supernode/services/registry"
	"github.com/supernode-ha/supernode/services/scheduler"
	"github.com/supernode-ha/supernode/test/origin"
)

const (
	// patience is how long a test waits for what must come.
	patience = 20 * time.Second
	// lease outlives a machine that stands still for a while: who is to be gone leaves.
	lease = 6 * time.Second
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is what every process has, without being one.
type node struct {
	t        *testing.T
	log      *zap.Logger
	metrics  *prometheus.Registry
	listener net.Listener
	endpoint string
	rpc      *rpcserver.Server
	pool     *rpcclient.Pool
	group    *lifecycle.Group
	stop     func()
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{t: t, log: zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel)), metrics: prometheus.NewRegistry()}
	var err error
	n.listener = listen(t)
	n.endpoint = n.listener.Addr().String()
	n.rpc, err = rpcserver.New(n.log, n.metrics)
	require.NoError(t, err)
	n.pool = rpcclient.NewPool(n.endpoint, n.rpc.Local())
	n.group = lifecycle.NewGroup(n.log, 10*time.Second)
	n.group.Add("rpc", func(ctx context.Context) error { return n.rpc.Run(ctx, n.listener) })
	return n
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// start runs the node until the test ends or stop is called.
func (n *node) start() {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.group.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(n.t, errors.Join(<-ended, n.pool.Close()))
	})
	n.t.Cleanup(n.stop)
}

// join makes the node a member, and gives its view of the others.
func (n *node) join(registry registryv1.RegistryServiceClient, m cluster.Member) *cluster.View {
	view := cluster.NewView(registry, n.log)
	m.Endpoint, m.Capacity = n.endpoint, 1
	n.group.Add("members", view.Run)
	n.group.Add("announce", func(ctx context.Context) error { return cluster.NewAnnouncer(registry, m, n.log).Run(ctx) })
	return view
}

// sees waits until a member is there.
func sees(t *testing.T, view *cluster.View, role cluster.Role, id string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, there := view.Find(role, id)
		return there
	}, patience, 5*time.Millisecond, "%s is not seen", id)
}

// world is a cluster with its source.
type world struct {
	t        *testing.T
	origin   *origin.Origin
	registry *node
	cdns     map[int32]*node // by download port
}

func newWorld(t *testing.T) *world {
	t.Helper()
	o, err := origin.Start(origin.Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, o.Close()) })
	w := &world{t: t, origin: o, cdns: make(map[int32]*node), registry: newNode(t)}
	service, err := registry.New(registry.Config{EmbeddedDir: filepath.Join(t.TempDir(), "etcd"), LeaseTTL: lease},
		registry.Deps{Logger: w.registry.log, Metrics: w.registry.metrics})
	require.NoError(t, err)
	service.Register(w.registry.rpc)
	w.registry.group.Add("registry", service.Run)
	w.registry.start()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, service.WaitReady(ctx))
	return w
}

// client reaches the registry from a node.
func (w *world) client(n *node) registryv1.RegistryServiceClient {
	conn, err := n.pool.Dial(w.registry.endpoint)
	require.NoError(w.t, err)
	return registryv1.NewRegistryServiceClient(conn)
}

// addCDN gives the home of a new CDN.
func (w *world) addCDN(id string, cfg cdn.Config) string {
	w.t.Helper()
	n, download := newNode(w.t), listen(w.t)
	cfg.ID, cfg.HomeDir, cfg.DrainTimeout = id, w.t.TempDir(), 100*time.Millisecond
	registryClient := w.client(n)
	service, err := cdn.New(cfg, cdn.Deps{Logger: zap.NewNop(), Metrics: n.metrics, Registry: registryClient, Download: download})
	require.NoError(w.t, err)
	service.Register(n.rpc)
	port := int32(download.Addr().(*net.TCPAddr).Port)
	view := n.join(registryClient, cluster.Member{ID: id, Role: cluster.CDN, DownloadIP: "127.0.0.1", DownloadPort: port})
	n.group.Add("cdn", service.Run)
	n.start()
	w.cdns[port] = n
	sees(w.t, view, cluster.CDN, id)
	return cfg.HomeDir
}

// desk is a scheduler as its clients see it.
type desk struct {
	schedulerv1.SchedulerServiceClient
	*node
	view *cluster.View
}

// patient is how a scheduler is configured that nothing runs out of time for.
func patient() scheduler.Config {
	return scheduler.Config{
		UpLimit: 5, DownLimit: 4, FailAccessInterval: time.Hour,
		GCInitialDelay: time.Hour, GCInterval: time.Hour, TaskExpireTime: time.Hour, PeerGCDelay: time.Hour,
	}
}

func (w *world) addScheduler(id string, cfg scheduler.Config) *desk {
	w.t.Helper()
	n := newNode(w.t)
	registryClient := w.client(n)
	view := n.join(registryClient, cluster.Member{ID: id, Role: cluster.Scheduler})
	cfg.ID = id
	service, err := scheduler.New(cfg, scheduler.Deps{
		Logger: n.log, Metrics: n.metrics, Registry: registryClient, Members: view, Dial: n.pool.Dial,
	})
	require.NoError(w.t, err)
	service.Register(n.rpc)
	n.group.Add("scheduler", service.Run)
	n.start()
	sees(w.t, view, cluster.Scheduler, id)
	outside := rpcclient.NewPool("", nil)
	w.t.Cleanup(func() { require.NoError(w.t, outside.Close()) })
	conn, err := outside.Dial(n.endpoint)
	require.NoError(w.t, err)
	return &desk{SchedulerServiceClient: schedulerv1.NewSchedulerServiceClient(conn), node: n, view: view}
}

// served is a world with a CDN, a scheduler, and a file of three pieces at /f.
func served(t *testing.T) (w *world, d *desk, content []byte) {
	t.Helper()
	w = newWorld(t)
	w.addCDN("c", cdn.Config{})
	content = origin.Content(fileSize, 1)
	w.origin.Put("/f", origin.File{Content: content})
	return w, w.addScheduler("s1", patient()), content
}

// mirrored waits until another scheduler knows all that this one does.
func (d *desk) mirrored(t *testing.T, standby *desk) {
	t.Helper()
	// What peers have said before this listing is marked as changed when it comes.
	_, err := d.ListPeers(t.Context(), &schedulerv1.ListPeersRequest{Limit: 1})
	require.NoError(t, err)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		there, err := gauge(standby.metrics, "supernode_scheduler_mirrored_tasks")
		require.NoError(c, err)
		require.Positive(c, there)
		behind, err := gauge(d.metrics, "supernode_scheduler_mirror_behind_tasks")
		require.NoError(c, err)
		require.Zero(c, behind)
	}, patience, 5*time.Millisecond)
}

func gauge(metrics *prometheus.Registry, name string) (float64, error) {
	families, err := metrics.Gather()
	if err != nil {
		return 0, err
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue(), nil
		}
	}
	return 0, fmt.Errorf("there is no metric %s", name)
}

func getTask(id string) *registryv1.GetTaskRequest { return &registryv1.GetTaskRequest{TaskId: id} }
