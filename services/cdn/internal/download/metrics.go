package download

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	bytes, pieces prometheus.Counter
}

func newMetrics() metrics {
	return metrics{
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_cdn_sent_bytes_total",
			Help: "Bytes of wrapped pieces sent to peers.",
		}),
		pieces: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_cdn_sent_pieces_total",
			Help: "Ranges sent completely to peers; a range of a peer is one piece.",
		}),
	}
}

func (m metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.bytes, m.pieces}
}
