package fetch

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	fetches *prometheus.CounterVec
	bytes   prometheus.Counter
}

func newMetrics() metrics {
	return metrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_cdn_fetches_total",
			Help: "Tasks that were made whole (success, cached) or failed, by reason.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_cdn_fetched_bytes_total",
			Help: "Bytes of content read from sources.",
		}),
	}
}

func (m metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.fetches, m.bytes}
}
