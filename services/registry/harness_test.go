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
	testTimeout = 30 * time.Second
	// promptTime is below the time for which the registry waits for an answer of the store.
	// So a call that took less did not time out, and all its writes are counted.
	promptTime = 800 * time.Millisecond
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		child(dir)
	}
	goleak.VerifyTestMain(m)
}

// externalEtcd is an etcd that is reached over TCP. It can be stopped and started again at
// the same address.
type externalEtcd struct {
	t      *testing.T
	client *url.URL
	peer   *url.URL
	etcd   *embed.Etcd
}

func startExternalEtcd(t *testing.T) *externalEtcd {
	t.Helper()
	// Outgoing connections use ports at 127.0.0.1. So at another address none of them can
	// take the port while etcd is stopped.
	host := fmt.Sprintf("127.0.%d.%d:0", 100+os.Getpid()/200%100, 1+os.Getpid()%200)
	e := &externalEtcd{t: t, client: &url.URL{Scheme: "http", Host: host}, peer: &url.URL{Scheme: "http", Host: host}}
	e.start(t.TempDir())
	t.Cleanup(e.stop)
	return e
}

func (e *externalEtcd) start(dir string) {
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
	case <-time.After(testTimeout):
		require.Fail(e.t, "etcd has not started")
	}
	e.etcd = etcd
	e.client.Host = etcd.Clients[0].Addr().String()
}

func (e *externalEtcd) dir() string { c := e.etcd.Config(); return c.Dir }

func (e *externalEtcd) stop() {
	if e.etcd != nil {
		e.etcd.Close()
		e.etcd = nil
	}
}

func (e *externalEtcd) raw() *clientv3.Client {
	e.t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{e.client.Host}, Logger: zap.NewNop()})
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = c.Close() })
	return c
}

// node is a running registry behind a gRPC server.
type node struct {
	registryv1.RegistryServiceClient
	metrics *prometheus.Registry
	ready   <-chan struct{}
	ended   <-chan struct{}
	stop    func() error
}

// startNode starts a registry. Unless cfg has another value, its leases last longer than
// every test, so that none expires if the machine pauses.
func startNode(t testing.TB, cfg registry.Config) *node {
	t.Helper()
	n := startNodeUnready(t, cfg)
	select {
	case <-n.ready:
	case <-n.ended:
		require.NoError(t, n.stop(), "the registry has ended")
	case <-time.After(testTimeout):
		require.Fail(t, "the registry is not ready")
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
		_ = server.Serve(listener) // returns when the server is stopped
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

// withEachStore runs a test with both kinds of etcd. nodes returns n registries with one
// store. An embedded store has a single registry, which is returned n times.
func withEachStore(t *testing.T, test func(t *testing.T, nodes func(n int) []*node)) {
	withEachStoreAndTTL(t, 0, test)
}

// withEachStoreAndTTL is withEachStore with another time to live of leases.
func withEachStoreAndTTL(t *testing.T, ttl time.Duration, test func(t *testing.T, nodes func(n int) []*node)) {
	t.Run("external", func(t *testing.T) {
		e := startExternalEtcd(t)
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

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
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

// untilStored repeats a call while the registry answers without the store, which it does
// if the store is slow, for example because the machine pauses. A write that has timed
// out may have been made nevertheless, so the call must be idempotent.
func untilStored[Req, Resp any](t testing.TB, call func(context.Context, Req, ...grpc.CallOption) (Resp, error), req Req) (Resp, error) {
	t.Helper()
	ctx := testContext(t)
	for tick := time.Tick(20 * time.Millisecond); ; <-tick {
		resp, err := call(ctx, req)
		answer, ok := any(resp).(interface{ GetUnclaimed() bool })
		if status.Code(err) != codes.Unavailable && (!ok || !answer.GetUnclaimed()) {
			return resp, err
		}
	}
}

// sendHeartbeats sends one heartbeat of each member and returns the last answer.
func sendHeartbeats(t testing.TB, n *node, members ...*registryv1.Member) (last *registryv1.HeartbeatResponse) {
	t.Helper()
	for _, m := range members {
		var err error
		last, err = untilStored(t, n.Heartbeat, &registryv1.HeartbeatRequest{Member: m})
		require.NoError(t, err)
	}
	return last
}

// keepAlive sends heartbeats of members until stop is called or the test ends.
func keepAlive(t *testing.T, n *node, members ...*registryv1.Member) (stop func()) {
	t.Helper()
	sendHeartbeats(t, n, members...)
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

// resolve returns the first answer, which may be unclaimed.
func resolve(t testing.TB, n *node, task int, scheduler string) *registryv1.ResolveTaskResponse {
	t.Helper()
	resp, err := n.ResolveTask(testContext(t), resolveRequest(task, scheduler))
	require.NoError(t, err)
	return resp
}

// claim resolves a task until the answer is from the store.
func claim(t testing.TB, n *node, task int, scheduler string) *registryv1.ResolveTaskResponse {
	t.Helper()
	resp, err := untilStored(t, n.ResolveTask, resolveRequest(task, scheduler))
	require.NoError(t, err)
	return resp
}

// watcher receives the lists of one WatchMembers stream.
type watcher struct {
	t      *testing.T
	stream grpc.ServerStreamingClient[registryv1.WatchMembersResponse]
}

func watch(t *testing.T, n *node, roles ...registryv1.Role) *watcher {
	t.Helper()
	stream, err := n.WatchMembers(testContext(t), &registryv1.WatchMembersRequest{Roles: roles})
	require.NoError(t, err)
	return &watcher{t: t, stream: stream}
}

// until receives lists until one has exactly these ids.
func (w *watcher) until(ids ...string) []*registryv1.Member {
	w.t.Helper()
	for {
		resp, err := w.stream.Recv()
		require.NoError(w.t, err, "waiting for members %v", ids)
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

// metric returns the sum of the values of a metric that have the given label value, or of
// all if label is empty.
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
