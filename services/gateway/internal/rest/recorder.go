package rest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/supernode-ha/supernode/services/gateway/internal/dfgetcodec"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
)

// recorder is a ResponseWriter that records the status and dfget's code of the
// answer.
type recorder struct {
	http.ResponseWriter
	status int
	code   int32 // dfget's code, 0 if the answer has none
}

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (r *recorder) Write(b []byte) (int, error) {
	if r.status == 0 {
		r.status = http.StatusOK
	}
	return r.ResponseWriter.Write(b)
}

// Unwrap returns the wrapped writer to http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// result returns dfget's code if the answer has one, or else the HTTP status.
func (r *recorder) result() string {
	if r.code != 0 && r.status == http.StatusOK {
		return strconv.Itoa(int(r.code))
	}
	return strconv.Itoa(max(r.status, http.StatusOK))
}

// fail writes an error, unless an answer has been started already.
func (r *recorder) fail(a errmap.Answer) {
	if r.status == 0 {
		r.code = a.Code
		fail(r, a)
	}
}

// envelope is the JSON of an error. dfget reads msg, and users of the original
// API read message.
type envelope struct {
	Code    int32  `json:"code"`
	Msg     string `json:"msg"`
	Message string `json:"message,omitempty"`
}

// fail writes an error. An answer with one of dfget's codes has no message.
func fail(w http.ResponseWriter, a errmap.Answer) {
	answer := envelope{Code: a.Code, Msg: a.Text}
	if !a.HasDfgetCode() {
		answer.Message = a.Text
	}
	body, err := json.Marshal(answer)
	if err != nil { // cannot happen: numbers and strings can always be encoded
		body = []byte(`{}`)
	}
	w.Header().Set("Content-Type", dfgetcodec.ContentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	if a.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(a.RetryAfter))
	}
	w.WriteHeader(a.HTTP)
	_, _ = w.Write(append(body, '\n')) // fails only if the client has disconnected
}

// meter counts and times requests. The label route is that of a route or "other",
// so that the number of label values is bounded.
type meter struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMeter(metrics prometheus.Registerer) (*meter, error) {
	m := &meter{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_gateway_requests_total",
			Help: "Requests by route and by code: dfget's own where the answer has one, the HTTP status otherwise.",
		}, []string{"route", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "supernode_gateway_request_duration_seconds",
			Help:    "Time from the head of a request to its answer, holding included.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2, 3, 4, 5},
		}, []string{"route"}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.duration} {
		if err := metrics.Register(c); err != nil {
			return nil, fmt.Errorf("registering the REST metrics: %w", err)
		}
	}
	return m, nil
}

func (m *meter) observe(route, code string, took time.Duration) {
	m.requests.WithLabelValues(route, code).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}
