package task

import (
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Stats holds the metrics of all tasks of a scheduler.
type Stats struct {
	pieces   *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	failures *prometheus.CounterVec
	refusals *prometheus.CounterVec
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
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_scheduler_limit_refusals_total",
			Help: "Calls that were refused because the task has too many peers or the scheduler too many tasks, by bound.",
		}, []string{"bound"}),
	}
	for _, bound := range []string{boundPeers, boundTasks} {
		s.refusals.WithLabelValues(bound) // shown with 0 before the first refusal
	}
	for _, c := range []prometheus.Collector{s.pieces, s.bytes, s.failures, s.refusals} {
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

// The bounds that calls are refused for.
const (
	boundPeers = "peers"
	boundTasks = "tasks"
)

// RefuseTask counts a refused task and returns the error of the call.
func (s *Stats) RefuseTask(limit int) error {
	s.refusals.WithLabelValues(boundTasks).Inc()
	return rpcerr.New(codes.ResourceExhausted, rpcerr.LimitReached,
		"this scheduler has %d tasks (--max-tasks) and accepts no other one until some have expired", limit)
}

// refusePeer counts a refused peer and returns the error of the call.
func (s *Stats) refusePeer(limit int) error {
	s.refusals.WithLabelValues(boundPeers).Inc()
	return rpcerr.New(codes.ResourceExhausted, rpcerr.LimitReached,
		"the task has %d peers (--max-peers-per-task) and accepts no other one until some have left", limit)
}
