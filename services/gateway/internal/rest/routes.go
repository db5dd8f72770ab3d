package rest

import (
	"net/http"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/supernode-ha/supernode/api/openapi"
	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
)

// route is where a path leads.
type route struct {
	// label stands for the path in metrics and logs.
	label string
	// method is GET or POST; "" takes any.
	method string
	// query is the message that the query is read for, nil when there is none.
	query protoreflect.MessageDescriptor
	// allowsHead is set for what has no effect, so that HEAD is fine too.
	allowsHead bool
	handler    http.Handler
}

func (r route) allows(method string) bool {
	return r.method == "" || r.method == method || r.allowsHead && method == http.MethodHead
}

// allow is the value of the Allow header.
func (r route) allow() string {
	if r.allowsHead {
		return r.method + ", " + http.MethodHead
	}
	return r.method
}

// routes are all paths but the profiler's. Those of clients are the ones that
// proto/http.yaml gives to grpc-gateway; calls is its mux. admin answers
// what every process of ours is asked.
func routes(calls, admin http.Handler) map[string]route {
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
		all[path] = route{label: path, method: http.MethodGet, allowsHead: true, handler: handler}
	}
	probe("/_ping", staticResponse("text/plain; charset=utf-8", []byte("OK")))
	probe("/openapi.json", staticResponse("application/json", openapi.JSON()))
	for _, path := range []string{"/healthz", "/readyz", "/version", "/metrics"} {
		probe(path, admin)
	}
	return all
}

func staticResponse(contentType string, text []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write(text)
	})
}

// profiler serves /debug/pprof/. A profile takes as long as it is asked to, so
// the server's limits are lifted for it.
func profiler(admin http.Handler) *route {
	return &route{label: "/debug/pprof/", handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetReadDeadline(time.Time{}) // else the profile ends with it
		admin.ServeHTTP(w, r)
	})}
}
