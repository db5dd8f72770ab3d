package rest

import (
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/supernode-ha/supernode/api/openapi"
	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/dfgetcodec"
)

// route says how requests for a path are handled.
type route struct {
	// label identifies the route in metrics and logs.
	label string
	// method is GET or POST; "" takes any.
	method string
	// query decodes the query into the message of newRequest. Both are nil if the query
	// is passed on as it is.
	query      *dfgetcodec.FieldDecoder
	newRequest func() proto.Message
	// allowsHead is true for a path without side effects, which also accepts HEAD.
	allowsHead bool
	// limited is true for a path on which the requests of a client are limited.
	limited bool
	handler http.Handler
}

func (r route) allows(method string) bool {
	return r.method == "" || r.method == method || r.allowsHead && method == http.MethodHead
}

// allow returns the value of the Allow header.
func (r route) allow() string {
	if r.allowsHead {
		return r.method + ", " + http.MethodHead
	}
	return r.method
}

// registerPath is the path on which clients register.
const registerPath = "/peer/registry"

// routes returns the routes of all paths except the profiler's. calls is the mux
// of grpc-gateway and serves the paths in proto/http.yaml. admin serves the paths
// that every process of Supernode has.
func routes(calls, admin http.Handler) map[string]route {
	all := make(map[string]route)
	call := func(method, path string, newRequest func() proto.Message) {
		rt := route{label: path, method: method, handler: calls, newRequest: newRequest, limited: path == registerPath}
		if newRequest != nil {
			rt.query = dfgetcodec.NewFieldDecoder(newRequest())
		}
		all[path] = rt
	}
	call(http.MethodPost, registerPath, nil)
	call(http.MethodGet, "/peer/task", func() proto.Message { return &dfgetv1.PullPiecesRequest{} })
	call(http.MethodGet, "/peer/piece/suc", func() proto.Message { return &dfgetv1.ReportPieceRequest{} })
	call(http.MethodGet, "/peer/piece/error", func() proto.Message { return &dfgetv1.ReportPieceErrorRequest{} })
	call(http.MethodGet, "/peer/service/down", func() proto.Message { return &dfgetv1.ReportServiceDownRequest{} })
	call(http.MethodPost, "/task/metrics", nil)
	call(http.MethodPost, "/peer/heartbeat", nil)
	call(http.MethodPost, "/peer/network", func() proto.Message { return &dfgetv1.FetchNetworkRequest{} })

	probe := func(path string, handler http.Handler) {
		all[path] = route{label: path, method: http.MethodGet, allowsHead: true, handler: handler}
	}
	probe("/_ping", staticResponse("text/plain; charset=utf-8", []byte("OK")))
	probe("/openapi.json", staticResponse("application/json", openapi.JSON()))
	for _, path := range []string{"/healthz", "/readyz", "/version", "/metrics"} {
		probe(path, admin)
	}
	return all
}

// staticResponse returns a handler that always writes text.
func staticResponse(contentType string, text []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text)
	})
}

// profiler returns the route of /debug/pprof/. The client chooses how long a
// profile takes, so the server's read deadline is removed.
func profiler(admin http.Handler) *route {
	return &route{label: "/debug/pprof/", handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // the deadline would end the profile
		admin.ServeHTTP(w, r)
	})}
}
