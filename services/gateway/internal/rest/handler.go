package rest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
	"github.com/supernode-ha/supernode/pkg/adminhttp"
	"github.com/supernode-ha/supernode/services/gateway/internal/dfgetcodec"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
)

// Config holds the settings of the handler.
type Config struct {
	// Profiler enables /debug/pprof/.
	Profiler bool
	// MaxBody limits the body of a request, in bytes.
	MaxBody int64
}

// Limiter limits the registrations of each client.
type Limiter interface {
	// Allow reports whether the client at the other end of a connection may register
	// now. remote is its address and port.
	Allow(remote string, now time.Time) bool
}

// Deps holds what the handler depends on. Limiter and Ready are optional.
type Deps struct {
	// Service answers the calls of clients.
	Service dfgetv1.DfgetServiceServer
	// Limiter limits registrations; nil means no limit.
	Limiter Limiter
	// Log, Metrics and Gatherer are those of the process.
	Log      *zap.Logger
	Metrics  prometheus.Registerer
	Gatherer prometheus.Gatherer
	// Ready reports whether requests can be served; nil means always.
	Ready func(context.Context) error
}

// Handler serves all paths. It is safe for concurrent use.
type Handler struct {
	cfg    Config
	limits Limiter // nil if there is no limit
	log    *zap.Logger
	routes map[string]route
	pprof  *route // nil if Profiler is false
	prefix *regexp.Regexp
	meter  *meter
	// noValues are the values of a query that has been decoded. It is never written.
	noValues url.Values
}

// NewHandler creates the handler and registers its metrics.
func NewHandler(cfg Config, deps Deps) (*Handler, error) {
	m, err := newMeter(deps.Metrics)
	if err != nil {
		return nil, err
	}
	h := &Handler{
		cfg: cfg, limits: deps.Limiter, log: deps.Log, meter: m, noValues: url.Values{},
		prefix: regexp.MustCompile(`^/v[0-9][0-9.]*(/.*)$`),
	}
	mux := runtime.NewServeMux(
		runtime.WithMarshalerOption(runtime.MIMEWildcard, dfgetcodec.NewJSON()),
		runtime.WithMarshalerOption(dfgetcodec.FormType, dfgetcodec.NewForm()),
		runtime.WithErrorHandler(h.writeCallError),
		runtime.WithForwardResponseOption(recordCode),
		runtime.WithIncomingHeaderMatcher(func(string) (string, bool) { return "", false }),
		runtime.WithDisablePathLengthFallback(),
		runtime.WithDisableHTTPMethodOverride(),
		runtime.WithWriteContentLength(),
	)
	if err := dfgetv1.RegisterDfgetServiceHandlerServer(context.Background(), mux, decodedCalls{deps.Service}); err != nil {
		return nil, fmt.Errorf("registering dfget's calls: %w", err)
	}
	admin := adminhttp.Handler(deps.Gatherer, deps.Ready, cfg.Profiler)
	h.routes = routes(mux, admin)
	if cfg.Profiler {
		h.pprof = profiler(admin)
	}
	return h, nil
}

// ServeHTTP implements http.Handler. It counts and logs each request and answers a
// panic with 500.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	rec := &recorder{ResponseWriter: w}
	label := "other"
	defer func() {
		if p := recover(); p != nil {
			if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(p) // net/http closes the connection
			}
			h.log.Error("request handler panicked; the request fails with an internal error", zap.String("route", label), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			rec.fail(errmap.HTTPAnswer(http.StatusInternalServerError, "internal error"))
		}
		h.meter.observe(label, rec.result(), time.Since(start))
		if h.log.Core().Enabled(zap.DebugLevel) { // fields are not worth building for nothing on each request
			h.log.Debug("request answered", zap.String("route", label), zap.String("method", r.Method),
				zap.String("code", rec.result()), zap.Duration("took", time.Since(start)), zap.String("remote", r.RemoteAddr))
		}
	}()
	path := h.stripVersion(r.URL.Path)
	rt, ok := h.find(path)
	if !ok {
		rec.fail(errmap.HTTPAnswer(http.StatusNotFound, "no such path"))
		return
	}
	label = rt.label
	h.serve(rec, r, path, rt)
}

// stripVersion removes the version prefix that every path may have.
func (h *Handler) stripVersion(path string) string {
	if !strings.HasPrefix(path, "/v") { // the expression costs more than the rest of the routing
		return path
	}
	if m := h.prefix.FindStringSubmatch(path); m != nil {
		return m[1]
	}
	return path
}

// find returns the route of a path.
func (h *Handler) find(path string) (route, bool) {
	if h.pprof != nil && strings.HasPrefix(path, h.pprof.label) {
		return *h.pprof, true
	}
	rt, ok := h.routes[path]
	return rt, ok
}

// serve checks the method, the client's limit, the query and the body of a request and
// passes it to the handler of its route.
func (h *Handler) serve(rec *recorder, r *http.Request, path string, rt route) {
	if !rt.allows(r.Method) {
		rec.Header().Set("Allow", rt.allow())
		rec.fail(errmap.HTTPAnswer(http.StatusMethodNotAllowed, "method not allowed here"))
		return
	}
	if rt.limited && h.limits != nil && !h.limits.Allow(r.RemoteAddr, time.Now()) {
		rec.fail(errmap.TooManyRegistrations())
		return
	}
	in, err := h.request(r, path, rt)
	if err != nil {
		rec.fail(errmap.HTTPAnswer(http.StatusBadRequest, "query: "+err.Error()))
		return
	}
	if rt.method == http.MethodPost {
		body, failure := h.body(rec, r)
		if failure != nil {
			rec.fail(*failure)
			return
		}
		in.Body = body
	}
	rt.handler.ServeHTTP(rec, in)
}

// request returns the request as the handler of its route gets it. A query is decoded
// here, once: grpc-gateway finds none.
func (h *Handler) request(r *http.Request, path string, rt route) (*http.Request, error) {
	if rt.query == nil {
		in := r.WithContext(r.Context())
		in.URL = &url.URL{Path: path, RawQuery: r.URL.RawQuery}
		return in, nil
	}
	m := rt.newRequest()
	if err := rt.query.Query(r.URL.RawQuery, m); err != nil {
		return nil, err
	}
	in := r.WithContext(withDecoded(r.Context(), m))
	in.URL = &url.URL{Path: path}
	in.Form, in.PostForm = h.noValues, h.noValues
	in.Host, in.RemoteAddr = "", "" // grpc-gateway would make metadata of them, which no call reads
	return in, nil
}

// body reads the whole body, so that a body that is too long or truncated is
// rejected before the call has any effect.
func (h *Handler) body(rec *recorder, r *http.Request) (io.ReadCloser, *errmap.Answer) {
	text := "body is longer than " + strconv.FormatInt(h.cfg.MaxBody, 10) + " bytes"
	tooLong, cutOff := errmap.HTTPAnswer(http.StatusRequestEntityTooLarge, text), errmap.HTTPAnswer(http.StatusBadRequest, "body was cut off")
	if r.ContentLength > h.cfg.MaxBody {
		rec.Header().Set("Connection", "close") // otherwise the server would read the rest of the body
		return nil, &tooLong
	}
	data, err := io.ReadAll(http.MaxBytesReader(rec.ResponseWriter, r.Body, h.cfg.MaxBody))
	if tooBig := new(http.MaxBytesError); errors.As(err, &tooBig) {
		return nil, &tooLong
	}
	if err != nil {
		return nil, &cutOff
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// writeCallError writes the answer to a call that failed. It is grpc-gateway's
// error handler.
func (h *Handler) writeCallError(ctx context.Context, _ *runtime.ServeMux, _ runtime.Marshaler, w http.ResponseWriter, _ *http.Request, err error) {
	a := errmap.ToAnswer(errmap.Other, err)
	label, _ := runtime.HTTPPathPattern(ctx)
	switch {
	case ctx.Err() != nil:
		h.log.Debug("client disconnected before the answer", zap.String("route", label))
	case a.Internal:
		h.log.Error("call failed unexpectedly; the client gets an internal error", zap.String("route", label), zap.Error(err))
	case a.HTTP >= http.StatusInternalServerError:
		h.log.Warn("call failed in the cluster; the client is expected to try another supernode", zap.String("route", label), zap.Error(err))
	default:
		h.log.Debug("call rejected", zap.String("route", label), zap.Error(err))
	}
	fail(w, a)
}

// recordCode passes dfget's code of an answer to the recorder, which counts it.
func recordCode(_ context.Context, w http.ResponseWriter, m proto.Message) error {
	rec, isRecorder := w.(*recorder)
	coded, isCoded := m.(interface{ GetCode() int32 })
	if isRecorder && isCoded {
		rec.code = coded.GetCode()
	}
	return nil
}
