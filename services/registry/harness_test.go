package registry_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/services/registry"
)

const (
	patience = 30 * time.Second
	// prompt is less than the registry waits for any answer of the store. What
	// took no longer was not given up, so all that it wrote has been counted.
	prompt = 800 * time.Millisecond
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

// external is an etcd reached over TCP, which can be stopped and started again
// with the same address.
type external struct {
	t      *testing.T
	client *url.URL
	peer   *url.URL
	etcd   *embed.Etcd
}

func startExternal(t *testing.T) *external {
	t.Helper()
	// Outgoing connections come from 127.0.0.1: on another address none of them
	// can take the port while etcd is down.
	host := fmt.Sprintf("127.0.%d.%d:0", 100+os.Getpid()/200%100, 1+os.Getpid()%200)
	e := &external{t: t, client: &url.URL{Scheme: "http", Host: host}, peer: &url.URL{Scheme: "http", Host: host}}
	e.start(t.TempDir())
	t.Cleanup(e.stop)
	return e
}

func (e *external) start(dir string) {
	e.t.Helper()
	cfg := embed.NewConfig()
	cfg.Dir = dir
	cfg.TickMs, cfg.ElectionMs = 20, 200
	cfg.ListenClientUrls, cfg.AdvertiseClientUrls = []url.URL{*e.client}, []url.URL{*e.client}
	cfg.ListenPeerUrls, cfg.AdvertisePeerUrls = []url.URL{*e.peer}, []url.URL{*e.peer}
	cfg.InitialCluster = cfg.InitialClusterFromName(cfg.Name)
	cfg.EnableGRPCGateway = false
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.NewNop())
	etcd, err := embed.StartEtcd(cfg)
	require.NoError(e.t, err)
	select {
	case <-etcd.Server.ReadyNotify():
	case <-time.After(patience):
		require.Fail(e.t, "etcd does not start")
	}
	e.etcd = etcd
	e.client.Host = etcd.Clients[0].Addr().String()
}

func (e *external) dir() string { c := e.etcd.Config(); return c.Dir }

func (e *external) stop() {
	if e.etcd != nil {
		e.etcd.Close()
		e.etcd = nil
	}
}

func (e *external) raw() *clientv3.Client {
	e.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{e.client.Host}, Logger: zap.NewNop()})
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = c.Close() })
	return c
}

// node is one running registry behind a real gRPC server.
type node struct {
	registryv1.RegistryServiceClient
	metrics *prometheus.Registry
	ready   <-chan struct{}
	ended   <-chan struct{}
	stop    func() error
}

// startNode starts a registry. Unless a test names another time, its leases
// outlive every test: none ends because the machine stands still for a while.
func startNode(t testing.TB, cfg registry.Config) *node {
	t.Helper()
	n := startNodeUnready(t, cfg)
	select {
	case <-n.ready:
	case <-n.ended:
		require.NoError(t, n.stop(), "registry ended")
	case <-time.After(patience):
		require.Fail(t, "registry is not ready")
	}
	return n
}

func startNodeUnready(t testing.TB, cfg registry.Config) *node {
	t.Helper()
	if cfg.LeaseTTL == 0 {
		cfg.LeaseTTL = 30 * time.Second
	}
	reg := prometheus.NewRegistry()
	service, err := registry.New(cfg, registry.Deps{Logger: zaptest.NewLogger(t, zaptest.Level(zap.WarnLevel)), Metrics: reg})
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	service.Register(server)
	ctx, cancel := context.WithCancel(context.Background())
	served, ran := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(served)
		_ = server.Serve(listener) // ends when it is stopped
	}()
	ended := make(chan struct{})
	go func() {
		ran <- service.Run(ctx)
		close(ended)
	}()
	conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	n := &node{RegistryServiceClient: registryv1.NewRegistryServiceClient(conn), metrics: reg, ready: service.Ready(), ended: ended}
	stopped := false
	n.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		err := <-ran
		_ = conn.Close()
		server.Stop()
		<-served
		return err
	}
	t.Cleanup(func() { require.NoError(t, n.stop()) })
	return n
}

// eachStore runs a test against both kinds of etcd. nodes gives n registries
// over one store; an embedded one has a single registry, given n times.
func eachStore(t *testing.T, test func(t *testing.T, nodes func(n int) []*node)) {
	eachStoreFor(t, 0, test)
}

// eachStoreFor is eachStore with leases of another length.
func eachStoreFor(t *testing.T, ttl time.Duration, test func(t *testing.T, nodes func(n int) []*node)) {
	t.Run("external", func(t *testing.T) {
		e := startExternal(t)
		test(t, func(n int) []*node {
			all := make([]*node, n)
			for i := range all {
				all[i] = startNode(t, registry.Config{Endpoints: []string{e.client.Host}, LeaseTTL: ttl})
			}
			return all
		})
	})
	t.Run("embedded", func(t *testing.T) {
		one := startNode(t, registry.Config{EmbeddedDir: t.TempDir(), LeaseTTL: ttl})
		test(t, func(n int) []*node {
			all := make([]*node, n)
			for i := range all {
				all[i] = one
			}
			return all
		})
	})
}

func bounded(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func cdn(id string) *registryv1.Member {
	return &registryv1.Member{
		Id: id, Role: registryv1.Role_ROLE_CDN, Endpoint: "127.0.0.1:8003", DownloadIp: "127.0.0.1", DownloadPort: 8001,
		State: registryv1.MemberState_MEMBER_STATE_READY, Capacity: 1, Version: "test",
	}
}

func scheduler(id string) *registryv1.Member {
	return &registryv1.Member{
		Id: id, Role: registryv1.Role_ROLE_SCHEDULER, Endpoint: "127.0.0.1:8013",
		State: registryv1.MemberState_MEMBER_STATE_READY,
	}
}

// patiently makes a call again for as long as the registry answers without the
// store. It gives a store up that is slower than a client's patience allows, and
// on a machine that stands still every store is. What was given up may have been
// written all the same: the call has to be one that may be made twice.
func patiently[Req, Resp any](t testing.TB, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	t.Helper()
	ctx := bounded(t)
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		resp, err := call(ctx, req)
		answer, ok := any(resp).(interface{ GetUnclaimed() bool })
		if status.Code(err) != codes.Unavailable && (!ok || !answer.GetUnclaimed()) {
			return resp, err
		}
	}
}

// beat sends one heartbeat for each member, and gives the last one's answer.
func beat(t testing.TB, n *node, members ...*registryv1.Member) (last *registryv1.HeartbeatResponse) {
	t.Helper()
	for _, m := range members {
		var err error
		last, err = patiently(t, n.Heartbeat, &registryv1.HeartbeatRequest{Member: m})
		require.NoError(t, err)
	}
	return last
}

// keepAlive beats for members until the test ends.
func keepAlive(t *testing.T, n *node, members ...*registryv1.Member) (stop func()) {
	t.Helper()
	beat(t, n, members...)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(300 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				for _, m := range members {
					_, _ = n.Heartbeat(ctx, &registryv1.HeartbeatRequest{Member: m})
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return stop
}

func taskID(n int) string { return fmt.Sprintf("%064x", n) }

func resolveRequest(task int, scheduler string) *registryv1.ResolveTaskRequest {
	return &registryv1.ResolveTaskRequest{TaskId: taskID(task), Url: "http://127.0.0.1/file", SchedulerId: scheduler}
}

// resolve takes the first answer, which may be one without the store.
func resolve(t testing.TB, n *node, task int, scheduler string) *registryv1.ResolveTaskResponse {
	t.Helper()
	resp, err := n.ResolveTask(bounded(t), resolveRequest(task, scheduler))
	require.NoError(t, err)
	return resp
}

// claim resolves a task until the store has its record.
func claim(t testing.TB, n *node, task int, scheduler string) *registryv1.ResolveTaskResponse {
	t.Helper()
	resp, err := patiently(t, n.ResolveTask, resolveRequest(task, scheduler))
	require.NoError(t, err)
	return resp
}

// watcher gives the lists of one WatchMembers stream.
type watcher struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[registryv1.WatchMembersResponse]
}

func watch(t *testing.T, n *node, roles ...registryv1.Role) *watcher {
	t.Helper()
	stream, err := n.WatchMembers(bounded(t), &registryv1.WatchMembersRequest{Roles: roles})
	require.NoError(t, err)
	return &watcher{t: t, stream: stream}
}

// until reads lists until one has exactly these ids.
func (w *watcher) until(ids ...string) []*registryv1.Member {
	w.t.Helper()
	for {
		resp, err := w.stream.Recv()
		require.NoError(w.t, err, "while waiting for members %v", ids)
		if fmt.Sprint(idsOf(resp)) == fmt.Sprint(append([]string{}, ids...)) {
			return resp.GetMembers()
		}
	}
}

func idsOf(resp *registryv1.WatchMembersResponse) []string {
	ids := []string{}
	for _, m := range resp.GetMembers() {
		ids = append(ids, m.GetId())
	}
	return ids
}

// metric gives the sum of a metric's values whose labels have the value label,
// or of all when label is empty.
func metric(t testing.TB, n *node, name, label string) (sum float64) {
	t.Helper()
	families, err := n.metrics.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if label == "" || len(m.GetLabel()) == 1 && m.GetLabel()[0].GetValue() == label {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}
