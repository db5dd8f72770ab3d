package task

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Stats holds the metrics of all tasks of a scheduler.
type Stats struct {
	pieces   *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	failures *prometheus.CounterVec
}

// NewStats creates the counters and registers them with reg.
func NewStats(reg prometheus.Registerer) (*Stats, error) {
	s := &Stats{
		pieces: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_scheduler_offered_pieces_total",
			Help: "Pieces that were offered to peers, by kind of source.",
		}, []string{"source"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_scheduler_offered_bytes_total",
			Help: "Wrapped bytes that were offered to peers, by kind of source.",
		}, []string{"source"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_scheduler_failed_pieces_total",
			Help: "Pieces that peers could not download, by kind of source.",
		}, []string{"source"}),
	}
	for _, c := range []prometheus.Collector{s.pieces, s.bytes, s.failures} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func label(cdn bool) string {
	if cdn {
		return "cdn"
	}
	return "peer"
}

func (s *Stats) offered(offers []swarm.Offer) {
	for _, o := range offers {
		if o.Repeated {
			continue
		}
		s.pieces.WithLabelValues(label(o.FromCDN)).Inc()
		s.bytes.WithLabelValues(label(o.FromCDN)).Add(float64(o.Length))
	}
}

func (s *Stats) failed(sourceID string) {
	s.failures.WithLabelValues(label(swarm.IsCDN(sourceID))).Inc()
}
