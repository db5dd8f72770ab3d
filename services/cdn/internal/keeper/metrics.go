package keeper

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	calls   *prometheus.CounterVec
	records *prometheus.GaugeVec
	open    prometheus.Gauge
}

func newMetrics() metrics {
	return metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_cdn_registry_calls_total", Help: "Calls to the registry about tasks, by what was asked for and what came of it.",
		}, []string{"call", "result"}),
		records: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "supernode_cdn_records", Help: "Task records that name this instance, by what as.",
		}, []string{"as"}),
		open: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "supernode_cdn_repairs_open", Help: "Tasks that the registry is to be asked about, or is being asked about.",
		}),
	}
}

func (m metrics) count(call string, err error) { m.calls.WithLabelValues(call, reason(err)).Inc() }

// Collectors are the metrics, to be registered.
func (k *Keeper) Collectors() []prometheus.Collector {
	return []prometheus.Collector{k.metrics.calls, k.metrics.records, k.metrics.open}
}

// show is called by the goroutine that owns the desk.
func (m metrics) show(d *desk) {
	owned := d.book.owned[d.k.id]
	m.records.WithLabelValues("owner").Set(float64(owned))
	m.records.WithLabelValues("replica").Set(float64(len(d.book.entries) - owned))
	m.open.Set(float64(len(d.queue) + d.running))
}
