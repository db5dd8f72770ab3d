package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/buildinfo"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/gateway"
)

func TestEveryPathIsServedWithAndWithoutVersionPrefix(t *testing.T) {
	gw := start(t, gateway.Config{Version: "9.9", Profiler: true}, &scheduler{id: "s1"})
	for _, prefix := range []string{"", "/v1", "/v1.0", "/v2", "/v1.0.6"} {
		require.Equal(t, 200, gw.post(prefix+"/peer/registry", good).code(), prefix)
		require.Equal(t, 602, gw.get(prefix+pullA).code())
		require.Equal(t, 611, gw.get(prefix+sucA).code())
		require.Equal(t, 200, gw.get(prefix+errorA).code())
		require.Equal(t, 612, gw.get(prefix+downA).code())
		require.Equal(t, 1, gw.post(prefix+"/task/metrics", countA).code())
		require.JSONEq(t, `{"code":200,"data":{"needRegister":false,"seedTaskIDs":[],"version":"9.9"}}`,
			gw.post(prefix+"/peer/heartbeat", `{"IP":"127.0.0.1","port":15001,"cID":"x"}`).raw)
		require.JSONEq(t, `{"code":200,"data":{"nodes":[]}}`, gw.post(prefix+"/peer/network?start=0&limit=-1", `{"urls":[]}`).raw)
		require.Equal(t, "OK", gw.get(prefix+"/_ping").raw)
		require.Equal(t, "OK", gw.get(prefix+"/healthz").raw)
		require.Equal(t, "OK", gw.get(prefix+"/readyz").raw)
		require.Contains(t, gw.get(prefix+"/metrics").raw, "supernode_gateway_requests_total")
		require.Contains(t, gw.get(prefix+"/debug/pprof/").raw, "goroutine")
		require.NotEmpty(t, gw.get(prefix+"/debug/pprof/cmdline").raw)
		require.Equal(t, http.StatusOK, gw.send(http.MethodHead, prefix+"/_ping", "", nil).status)
		var info buildinfo.Info
		require.NoError(t, json.Unmarshal([]byte(gw.get(prefix+"/version").raw), &info))
		require.Equal(t, buildinfo.Get(), info)
	}
	gw.requireNoWarnings()
}

func TestEveryPathInTheOpenAPIDocumentIsServed(t *testing.T) {
	gw := start(t, gateway.Config{}, &scheduler{id: "s1"})
	got := gw.get("/openapi.json")
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	paths := got.body["paths"].(map[string]any)
	require.Len(t, paths, 8)
	for path, methods := range paths {
		for method := range methods.(map[string]any) {
			a := gw.send(strings.ToUpper(method), path, "", []byte("[]"))
			require.NotContains(t, []int{404, 405, 501}, a.status, "%s %s", method, path)
		}
	}
}

func TestLargeNumbersAreJSONNumbers(t *testing.T) {
	s := &scheduler{id: "s1"}
	s.register = func(context.Context, *schedulerv1.RegisterPeerRequest) (*schedulerv1.RegisterPeerResponse, error) {
		return &schedulerv1.RegisterPeerResponse{Length: 1<<53 + 1, PieceSize: 15 << 20}, nil
	}
	s.pull = func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Finished{Finished: &schedulerv1.Finished{WrappedLength: 1<<53 + 1}}}, nil
	}
	gw := start(t, gateway.Config{}, s)
	require.Regexp(t, `^\{"code":200,"msg":"success","data":\{"taskId":"[0-9a-f]{64}","fileLength":9007199254740993,"pieceSize":15728640,`+
		`"cdnSource":"supernode","asSeed":false,"seedTaskID":""\}\}\n$`, gw.post("/peer/registry", good).raw)
	require.Equal(t, `{"code":600,"data":{"md5":"","fileLength":9007199254740993}}`+"\n", gw.get(pullA).raw)
	s.pull = nil
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", gw.get(pullA).raw)
}

func TestSchedulersErrorIsMappedForEachCall(t *testing.T) {
	for _, c := range []struct {
		err                  error
		register, pull, rest int // dfget's code, or the HTTP status of an error; 0 if a report is acknowledged
	}{
		{rpcerr.New(codes.NotFound, rpcerr.SourceNotFound, "x"), 607, 610, 0},
		{rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, "x"), 607, 610, 0},
		{rpcerr.New(codes.Unauthenticated, rpcerr.SourceAuthRequired, "x"), 608, 610, 0},
		{rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "x"), 607, 610, 0},
		{rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "x"), 503, 602, 0},
		{rpcerr.New(codes.FailedPrecondition, rpcerr.NotOwner, "x"), 503, 602, 0},
		{rpcerr.New(codes.Unavailable, "", "x"), 503, 602, 0},
		{rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "x"), 503, 602, 0},
		{rpcerr.New(codes.DeadlineExceeded, "", "x"), 503, 602, 0},
		{rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "x"), 503, 503, 503},
		{rpcerr.New(codes.ResourceExhausted, "", "x"), 429, 429, 429},
		{rpcerr.New(codes.ResourceExhausted, rpcerr.LimitReached, "x"), 429, 602, 0},
		{rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "x"), 404, 404, 0},
		{rpcerr.New(codes.NotFound, rpcerr.PeerNotFound, "x"), 404, 404, 0},
		{rpcerr.Invalid("x"), 400, 400, 400},
		{errors.New("secret"), 500, 500, 500},
	} {
		t.Run(c.err.Error(), func(t *testing.T) {
			t.Parallel()
			gw := start(t, gateway.Config{MaxHold: 20e6, CallBudget: 120e6}, &scheduler{
				id:       "s1",
				report:   func(context.Context) error { return c.err },
				register: registerAlways(c.err),
				pull:     pullAlways(c.err),
			})
			answers := map[string]int{"/peer/registry": c.register, pullA: c.pull}
			answers[sucA], answers[errorA], answers[downA], answers["/task/metrics"] = c.rest, c.rest, c.rest, c.rest
			if c.rest == 0 {
				answers[sucA], answers[errorA], answers[downA], answers["/task/metrics"] = 611, 200, 612, 1
			}
			for uri, want := range answers {
				got := gw.send(map[bool]string{true: "POST", false: "GET"}[!strings.Contains(uri, "?")], uri, "",
					[]byte(map[string]string{"/peer/registry": good, "/task/metrics": countA}[uri]))
				require.Equal(t, want, got.code(), "%v: %s: %s", c.err, uri, got.raw)
				acknowledged := c.rest == 0 && uri != pullA && uri != "/peer/registry"
				if want >= 600 || acknowledged {
					require.Equal(t, http.StatusOK, got.status)
				} else {
					requireEnvelope(t, got)
				}
				require.NotContains(t, got.raw, "secret")
			}
			logged := 0 // an internal error is logged once for each call
			if c.rest == http.StatusInternalServerError {
				logged = len(answers)
			}
			require.Equal(t, logged, gw.logs.FilterLevelExact(zapcore.ErrorLevel).Len())
		})
	}
}

func TestLabelsOfMetricsDoNotDependOnTasksOrUnknownPaths(t *testing.T) {
	gw := start(t, gateway.Config{}, &scheduler{id: "s1"})
	gw.get("/v1.0" + pullA)
	gw.get("/no/such/" + taskA)
	gw.post("/peer/registry", "{")
	text := gw.get("/metrics").raw
	require.Contains(t, text, `supernode_gateway_requests_total{code="602",route="/peer/task"} 1`)
	require.Contains(t, text, `supernode_gateway_requests_total{code="404",route="other"} 1`)
	require.Contains(t, text, `supernode_gateway_requests_total{code="400",route="/peer/registry"} 1`)
	require.NotContains(t, text, taskA)
	require.NotContains(t, text, "v1.0/")
}

func TestServiceIsAvailableOverGRPC(t *testing.T) {
	gw := start(t, gateway.Config{}, &scheduler{id: "s1"})
	endpoint, _ := rpctest.Serve(t, func(g *grpc.Server) { gw.service.Register(g) })
	conn, err := dialer(t)(endpoint)
	require.NoError(t, err)
	client := dfgetv1.NewDfgetServiceClient(conn)
	out, err := client.RegisterPeer(t.Context(), &dfgetv1.RegisterPeerRequest{RawUrl: "http://h/", Cid: "c", Ip: "10.0.0.1"})
	require.NoError(t, err)
	require.EqualValues(t, 300_000, out.GetData().GetFileLength())
	_, err = client.RegisterPeer(t.Context(), &dfgetv1.RegisterPeerRequest{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

func TestNewUnregistersItsMetricsWhenItFails(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	registry := prometheus.NewRegistry()
	deps := gateway.Deps{Logger: zap.NewNop(), Metrics: registry, Gatherer: registry, Members: view{}, Dial: dialer(t), REST: l}
	for name, cfg := range map[string]gateway.Config{
		"no time for a hold": {MaxHold: 2e9, CallBudget: 1e9},
		"longer than dfget":  {CallBudget: 5e9},
	} {
		_, err = gateway.New(cfg, deps)
		require.Error(t, err, name)
	}
	_, err = gateway.New(gateway.Config{}, gateway.Deps{})
	require.Error(t, err)

	deps.Metrics = &limitedRegisterer{Registerer: registry, left: 2}
	_, err = gateway.New(gateway.Config{}, deps)
	require.ErrorIs(t, err, errFull)
	deps.Metrics = registry
	_, err = gateway.New(gateway.Config{}, deps)
	require.NoError(t, err)
}

var errFull = errors.New("full")

// limitedRegisterer accepts a limited number of metrics.
type limitedRegisterer struct {
	prometheus.Registerer
	left int
}

func (f *limitedRegisterer) Register(c prometheus.Collector) error {
	if f.left == 0 {
		return errFull
	}
	f.left--
	return f.Registerer.Register(c)
}

// dfget registers at its next address after this answer. Other clients learn when to
// try again.
func TestClientOfARefusedRegistrationIsToldWhenToTryAgain(t *testing.T) {
	s := &scheduler{id: "s1", register: registerAlways(rpcerr.New(codes.ResourceExhausted, rpcerr.LimitReached, "the task has 7 peers"))}
	gw := start(t, gateway.Config{}, s)
	a := gw.post("/peer/registry", good)
	require.Equal(t, http.StatusTooManyRequests, a.status)
	require.Equal(t, "10", a.header.Get("Retry-After"))
	require.JSONEq(t, `{"code":429,"msg":"the task has 7 peers","message":"the task has 7 peers"}`, a.raw)
}
