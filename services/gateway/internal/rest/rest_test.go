package rest_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/rest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// panicking is a service whose PullPieces panics.
type panicking struct {
	dfgetv1.UnimplementedDfgetServiceServer
}

func (panicking) PullPieces(context.Context, *dfgetv1.PullPiecesRequest) (*dfgetv1.PullPiecesResponse, error) {
	panic("panic of the test")
}

func TestPanicIsLoggedAndAnsweredWith500(t *testing.T) {
	core, logs := observer.New(zapcore.DebugLevel)
	registry := prometheus.NewRegistry()
	h, err := rest.NewHandler(rest.Config{MaxBody: 1 << 20}, rest.Deps{Service: panicking{}, Log: zap.New(core), Metrics: registry, Gatherer: registry})
	require.NoError(t, err)
	server := httptest.NewServer(h)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for range 2 {
		resp, err := http.Get(server.URL + "/v1.0/peer/task")
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		require.Equal(t, http.StatusInternalServerError, resp.StatusCode)
		require.JSONEq(t, `{"code":500,"msg":"internal error","message":"internal error"}`, string(body))
	}
	require.Equal(t, 2, logs.FilterLevelExact(zapcore.ErrorLevel).Len())
}

func TestReadyzFollowsReady(t *testing.T) {
	registry := prometheus.NewRegistry()
	state := errors.New("no scheduler")
	h, err := rest.NewHandler(rest.Config{}, rest.Deps{Service: panicking{}, Log: zap.NewNop(), Metrics: registry, Gatherer: registry,
		Ready: func(context.Context) error { return state }})
	require.NoError(t, err)
	get := func() int {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/readyz", nil))
		return rec.Code
	}
	require.Equal(t, http.StatusServiceUnavailable, get())
	state = nil
	require.Equal(t, http.StatusOK, get())
}

// A client that has sent half of a request must not make the stop an error.
func TestStopClosesConnectionsWithHalfARequest(t *testing.T) {
	registry := prometheus.NewRegistry()
	h, err := rest.NewHandler(rest.Config{MaxBody: 1 << 20}, rest.Deps{Service: panicking{}, Log: zap.NewNop(), Metrics: registry, Gatherer: registry})
	require.NoError(t, err)
	reached := make(chan struct{})
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(reached)
		h.ServeHTTP(w, r)
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	server := rest.NewServer(handler, zap.NewNop(), time.Millisecond, func() {})
	go func() { ended <- server.Run(ctx, listener) }()

	client, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	defer func() { _ = client.Close() }()
	_, err = client.Write([]byte("POST /peer/registry HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n{"))
	require.NoError(t, err)
	<-reached
	cancel()
	require.NoError(t, <-ended)
}
