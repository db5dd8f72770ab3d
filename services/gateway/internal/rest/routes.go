package rest

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/supernode-ha/supernode/api/openapi"
	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/buildinfo"
	"github.com/supernode-ha/supernode/services/gateway/internal/verdict"
)

// readyLimit bounds how long a probe waits for an answer.
const readyLimit = 2 * time.Second

// route is where a path leads.
type route struct {
	// label stands for the path in metrics and logs.
	label string
	// method is GET or POST; "" takes any.
	method string
	// query is the message that the query is read for, nil when there is none.
	query protoreflect.MessageDescriptor
	// probe is set for what has no effect, so that HEAD is fine too.
	probe   bool
	handler http.Handler
}

func (r route) allows(method string) bool {
	return r.method == "" || r.method == method || r.probe && method == http.MethodHead
}

// allow is the value of the Allow header.
func (r route) allow() string {
	if r.probe {
		return r.method + ", " + http.MethodHead
	}
	return r.method
}

// routes are all paths but the profiler's. Those of clients are the ones that
// proto/http.yaml gives to grpc-gateway; calls is its mux.
func routes(calls http.Handler, deps Deps) map[string]route {
	all := make(map[string]route)
	call := func(method, path string, query proto.Message) {
		rt := route{label: path, method: method, handler: calls}
		if query != nil {
			rt.query = query.ProtoReflect().Descriptor()
		}
		all[path] = rt
	}
	call(http.MethodPost, "/peer/registry", nil)
	call(http.MethodGet, "/peer/task", &dfgetv1.PullPiecesRequest{})
	call(http.MethodGet, "/peer/piece/suc", &dfgetv1.ReportPieceRequest{})
	call(http.MethodGet, "/peer/piece/error", &dfgetv1.ReportPieceErrorRequest{})
	call(http.MethodGet, "/peer/service/down", &dfgetv1.ReportServiceDownRequest{})
	call(http.MethodPost, "/task/metrics", nil)
	call(http.MethodPost, "/peer/heartbeat", nil)
	call(http.MethodPost, "/peer/network", &dfgetv1.FetchNetworkRequest{})

	probe := func(path string, handler http.Handler) {
		all[path] = route{label: path, method: http.MethodGet, probe: true, handler: handler}
	}
	probe("/_ping", text("OK"))
	probe("/healthz", text("OK"))
	probe("/readyz", ready(deps.Ready))
	probe("/version", http.HandlerFunc(version))
	probe("/metrics", promhttp.HandlerFor(deps.Gatherer, promhttp.HandlerOpts{}))
	probe("/openapi.json", document(openapi.JSON()))
	return all
}

func text(s string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(s))
	})
}

func document(b []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	})
}

func version(w http.ResponseWriter, r *http.Request) {
	b, err := json.Marshal(buildinfo.Get())
	if err != nil { // strings always have a form
		b = []byte(`{}`)
	}
	document(append(b, '\n')).ServeHTTP(w, r)
}

func ready(check func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if check != nil {
			ctx, cancel := context.WithTimeout(r.Context(), readyLimit)
			defer cancel()
			if err := check(ctx); err != nil {
				fail(w, verdict.HTTP(http.StatusServiceUnavailable, "not ready: "+err.Error()))
				return
			}
		}
		text("OK").ServeHTTP(w, r)
	})
}

// profiler serves /debug/pprof/. A profile takes as long as it is asked to, so
// the server's limits are lifted for it.
func profiler() *route {
	handler := func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // else the profile ends with it
		switch strings.TrimPrefix(r.URL.Path, "/debug/pprof/") {
		case "cmdline":
			pprof.Cmdline(w, r)
		case "profile":
			pprof.Profile(w, r)
		case "symbol":
			pprof.Symbol(w, r)
		case "trace":
			pprof.Trace(w, r)
		default:
			pprof.Index(w, r)
		}
	}
	return &route{label: "/debug/pprof/", handler: http.HandlerFunc(handler)}
}
