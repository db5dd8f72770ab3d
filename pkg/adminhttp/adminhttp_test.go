package adminhttp_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/pkg/adminhttp"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve answers until the test ends, and gives what is at a path.
func serve(t *testing.T, ready func(context.Context) error, profiler bool) func(path string) (int, string) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "supernode_test_total"}))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- adminhttp.Serve(ctx, l, adminhttp.Handler(reg, ready, profiler)) }()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-ended)
	})
	return func(path string) (int, string) {
		resp, err := client.Get("http://" + l.Addr().String() + path)
		require.NoError(t, err)
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
}

func TestWhatOperatorsAsk(t *testing.T) {
	get := serve(t, nil, true)
	for path, has := range map[string]string{
		"/healthz": "OK", "/readyz": "OK", "/metrics": "supernode_test_total", "/version": "GoVersion", "/debug/pprof/": "goroutine",
	} {
		status, text := get(path)
		require.Equal(t, http.StatusOK, status, path)
		require.Contains(t, text, has, path)
	}
}

func TestNotReadySaysWhy(t *testing.T) {
	get := serve(t, func(context.Context) error { return errors.New("no cdn is there") }, false)
	status, text := get("/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, text, "no cdn is there")
	status, _ = get("/healthz")
	require.Equal(t, http.StatusOK, status)
	status, _ = get("/debug/pprof/")
	require.Equal(t, http.StatusNotFound, status, "the profiler is off")
}
