package gateway_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/gateway"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scheduler is a scripted scheduler behind real gRPC. A test sets the functions
// that answer the calls. A call without a function succeeds.
type scheduler struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	id, endpoint string

	register func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error)
	pull     func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error)
	report   func(context.Context) error
	health   func(context.Context) error
	list     func(*schedulerv1.ListPeersRequest) (*schedulerv1.ListPeersResponse, error)

	mu       sync.Mutex // guards recorded
	recorded []any
}

func (s *scheduler) record(m any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recorded = append(s.recorded, m)
}

func (s *scheduler) calls() []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]any(nil), s.recorded...)
}

func (s *scheduler) RegisterPeer(ctx context.Context, in *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
	s.record(in)
	if s.register != nil {
		return s.register(ctx, in)
	}
	return registerAnswer(in), nil
}

func (s *scheduler) PullPieces(ctx context.Context, in *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
	s.record(in)
	if s.pull != nil {
		return s.pull(ctx, in)
	}
	return waitAnswer("nothing yet"), nil
}

func (s *scheduler) reported(ctx context.Context, in any) error {
	s.record(in)
	if s.report != nil {
		return s.report(ctx)
	}
	return nil
}

func (s *scheduler) ReportPiece(ctx context.Context, in *schedulerv1.ReportPieceRequest) (*schedulerv1.ReportPieceResponse, error) {
	return &schedulerv1.ReportPieceResponse{}, s.reported(ctx, in)
}

func (s *scheduler) ReportPieceError(ctx context.Context, in *schedulerv1.ReportPieceErrorRequest) (*schedulerv1.ReportPieceErrorResponse, error) {
	return &schedulerv1.ReportPieceErrorResponse{}, s.reported(ctx, in)
}

func (s *scheduler) ReportPeerDown(ctx context.Context, in *schedulerv1.ReportPeerDownRequest) (*schedulerv1.ReportPeerDownResponse, error) {
	return &schedulerv1.ReportPeerDownResponse{}, s.reported(ctx, in)
}

func (s *scheduler) ReportMetrics(ctx context.Context, in *schedulerv1.ReportMetricsRequest) (*schedulerv1.ReportMetricsResponse, error) {
	return &schedulerv1.ReportMetricsResponse{}, s.reported(ctx, in)
}

func (s *scheduler) ListPeers(_ context.Context, in *schedulerv1.ListPeersRequest) (*schedulerv1.ListPeersResponse, error) {
	s.record(in)
	if s.list != nil {
		return s.list(in)
	}
	return &schedulerv1.ListPeersResponse{}, nil
}

// healthServer answers the health checks of a scheduler with its health function.
type healthServer struct {
	healthv1.UnimplementedHealthServer
	scheduler *scheduler
}

func (p *healthServer) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if p.scheduler.health != nil {
		if err := p.scheduler.health(ctx); err != nil {
			return nil, err
		}
	}
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, nil
}

// registerAnswer returns the answer to a registration that succeeds.
func registerAnswer(in *schedulerv1.RegisterPeerRequest) *schedulerv1.RegisterPeerResponse {
	return &schedulerv1.RegisterPeerResponse{TaskId: in.GetTaskId(), Length: 300_000, PieceSize: 4 << 20}
}

// waitAnswer returns the answer to a pull without pieces.
func waitAnswer(reason string) *schedulerv1.PullPiecesResponse {
	return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Wait{Wait: &schedulerv1.Wait{Reason: reason}}}
}

// testGateway is a running gateway with an HTTP client.
type testGateway struct {
	t       *testing.T
	base    string
	client  *http.Client
	service *gateway.Service
	logs    *observer.ObservedLogs
	// writes is the number of writes to the connections of clients.
	writes *atomic.Int64
	// stop ends Run and returns its error.
	stop func() error
}

// registerOn registers the scheduler's services on a server.
func (s *scheduler) registerOn(g *grpc.Server) {
	schedulerv1.RegisterSchedulerServiceServer(g, s)
	healthv1.RegisterHealthServer(g, &healthServer{scheduler: s})
}

// serve starts gRPC servers for the schedulers.
func serve(t *testing.T, schedulers ...*scheduler) {
	t.Helper()
	for _, s := range schedulers {
		s.endpoint, _ = rpctest.Serve(t, s.registerOn)
	}
}

// start starts a gateway and the schedulers as its cluster.
func start(t *testing.T, cfg gateway.Config, schedulers ...*scheduler) *testGateway {
	t.Helper()
	serve(t, schedulers...)
	return startWith(t, cfg, membersOf(schedulers))
}

// view is a cluster whose members do not change.
type view []cluster.Member

func (v view) Schedulers() []cluster.Member { return v }

func membersOf(schedulers []*scheduler) (members view) {
	for _, s := range schedulers {
		members = append(members, cluster.Member{ID: s.id, Endpoint: s.endpoint})
	}
	return members
}

// startWith starts a gateway with these members as its cluster.
func startWith(t *testing.T, cfg gateway.Config, members gateway.Members) *testGateway {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return run(t, cfg, members, network{listener: l, address: l.Addr().String(), client: http.DefaultClient, dial: dialer(t)})
}

// network connects a gateway with its clients and schedulers.
type network struct {
	listener net.Listener
	address  string // of the listener
	client   *http.Client
	dial     func(endpoint string) (grpc.ClientConnInterface, error)
}

// run starts a gateway in a network and stops it at the end of the test.
func run(t *testing.T, cfg gateway.Config, members gateway.Members, at network) *testGateway {
	t.Helper()
	core, logs := observer.New(zapcore.DebugLevel)
	clients := &countingListener{Listener: at.listener}
	registry := prometheus.NewRegistry()
	service, err := gateway.New(cfg, gateway.Deps{
		Logger: zap.New(core), Metrics: registry, Gatherer: registry,
		Members: members, Dial: at.dial, REST: clients,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	gw := &testGateway{t: t, base: "http://" + at.address, client: at.client, service: service, logs: logs, writes: &clients.writes}
	gw.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		gw.client.CloseIdleConnections()
		require.NoError(t, gw.stop())
	})
	return gw
}

// dialer returns a Dial function whose connections are closed at the end of the
// test.
func dialer(t *testing.T, more ...grpc.DialOption) func(string) (grpc.ClientConnInterface, error) {
	more = append(more, grpc.WithTransportCredentials(insecure.NewCredentials()))
	var mu sync.Mutex // guards conns
	conns := make(map[string]*grpc.ClientConn)
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return func(endpoint string) (grpc.ClientConnInterface, error) {
		mu.Lock()
		defer mu.Unlock()
		if c := conns[endpoint]; c != nil {
			return c, nil
		}
		c, err := grpc.NewClient("passthrough:///"+endpoint, more...)
		if err == nil {
			conns[endpoint] = c
		}
		return c, err
	}
}

// answer is an HTTP answer, with its body as text and decoded from JSON.
type answer struct {
	status int
	header http.Header
	raw    string
	body   map[string]any
	closes bool // it has "Connection: close"
}

func (a answer) code() int {
	n, _ := a.body["code"].(float64)
	return int(n)
}

func (gw *testGateway) send(method, uri, contentType string, body []byte) answer {
	gw.t.Helper()
	a, err := gw.trySend(method, uri, contentType, body)
	require.NoError(gw.t, err)
	return a
}

// trySend is for require.Eventually, which runs its condition in another goroutine.
// That goroutine must not end the test.
func (gw *testGateway) trySend(method, uri, contentType string, body []byte) (answer, error) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, gw.base+uri, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := gw.client.Do(req)
	if err != nil {
		return answer{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer{}, err
	}
	a := answer{status: resp.StatusCode, header: resp.Header, raw: string(raw), closes: resp.Close}
	_ = json.Unmarshal(raw, &a.body)
	return a, nil
}

func (gw *testGateway) get(uri string) answer {
	gw.t.Helper()
	return gw.send(http.MethodGet, uri, "", nil)
}

func (gw *testGateway) post(uri, body string) answer {
	gw.t.Helper()
	return gw.send(http.MethodPost, uri, "application/json;charset=utf-8", []byte(body))
}

// requireNoWarnings checks that nothing was logged above Info. An error that a
// client causes is not a warning.
func (gw *testGateway) requireNoWarnings() {
	gw.t.Helper()
	for _, e := range gw.logs.All() {
		require.LessOrEqual(gw.t, e.Level, zapcore.InfoLevel, "%s %v", e.Message, e.ContextMap())
	}
}
