package reconciler

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	calls   *prometheus.CounterVec
	records *prometheus.GaugeVec
	open    prometheus.Gauge
}

func newMetrics() metrics {
	return metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_cdn_registry_calls_total", Help: "Calls to the registry about tasks, by call and result.",
		}, []string{"call", "result"}),
		records: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "supernode_cdn_records", Help: "Task records that name this instance, by its role.",
		}, []string{"as"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "supernode_cdn_repairs_open", Help: "Tasks with a call to the registry that is queued or under way.",
		}),
	}
}

func (m metrics) count(call string, err error) { m.calls.WithLabelValues(call, reason(err)).Inc() }

// Collectors returns the metrics for registration.
func (r *Reconciler) Collectors() []prometheus.Collector {
	return []prometheus.Collector{r.metrics.calls, r.metrics.records, r.metrics.open}
}

// show sets the gauges. It is called by the goroutine that owns the state.
func (m metrics) show(s *state) {
	owned := s.index.ownedCount[s.r.id]
	m.records.WithLabelValues("owner").Set(float64(owned))
	m.records.WithLabelValues("replica").Set(float64(len(s.index.entries) - owned))
	m.open.Set(float64(len(s.queue) + s.runningCalls))
}
