package fetch

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	fetches *prometheus.CounterVec
	bytes   prometheus.Counter
	copied  prometheus.Counter
}

func newMetrics() metrics {
	return metrics{
		fetches: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_cdn_fetches_total",
			Help: "Fetches, by result: success, cached (served from disk), or the reason of the failure.",
		}, []string{"result"}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_cdn_fetched_bytes_total",
			Help: "Bytes of content read from sources.",
		}),
		copied: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_cdn_copied_bytes_total",
			Help: "Bytes of wrapped pieces downloaded from other CDNs.",
		}),
	}
}

func (m metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.fetches, m.bytes, m.copied}
}
