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

// recorder remembers how a request was answered.
type recorder struct {
	http.ResponseWriter
	status int
	code   int32 // dfget's, 0 when there is none
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

// Unwrap is for http.ResponseController.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// result is dfget's code where there is one, the HTTP status otherwise.
func (r *recorder) result() string {
	if r.code != 0 && r.status == http.StatusOK {
		return strconv.Itoa(int(r.code))
	}
	return strconv.Itoa(max(r.status, http.StatusOK))
}

// fail writes an error, unless an answer is on its way already.
func (r *recorder) fail(a errmap.Answer) {
	if r.status == 0 {
		fail(r, a)
	}
}

// envelope is an error as dfget and users of the original's API know it.
type envelope struct {
	Code    int32  `json:"code"`
	Msg     string `json:"msg"`
	Message string `json:"message"`
}

func fail(w http.ResponseWriter, a errmap.Answer) {
	body, err := json.Marshal(envelope{Code: a.Code, Msg: a.Text, Message: a.Text})
	if err != nil { // numbers and strings always have a form
		body = []byte(`{}`)
	}
	w.Header().Set("Content-Type", dfgetcodec.ContentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)+1))
	w.WriteHeader(a.HTTP)
	_, _ = w.Write(append(body, '\n')) // a client that is gone wants no answer
}

// meter counts requests by their fixed route.
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
			return nil, fmt.Errorf("registering the surface's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *meter) observe(route, code string, took time.Duration) {
	m.requests.WithLabelValues(route, code).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}
