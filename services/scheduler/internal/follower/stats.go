package follower

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

// The causes for which a takeover is asked for.
const (
	causeStream        = "stream"
	causeSuspect       = "suspect"
	causeDisk          = "disk"
	causeSecondOpinion = "second_opinion"
	// CauseScheduler is another scheduler that is dead.
	CauseScheduler = "scheduler"
)

// Stats counts what a scheduler asks of the registry for its tasks' sake.
type Stats struct {
	takeovers *prometheus.CounterVec
}

// NewStats registers the metrics.
func NewStats(reg prometheus.Registerer, monitor *health.Monitor) (*Stats, error) {
	s := &Stats{takeovers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_scheduler_takeovers_total",
		Help: "Takeovers of tasks that were asked for, by what was found out.",
	}, []string{"cause"})}
	suspects := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_suspects", Help: "CDNs that do not answer.",
	}, func() float64 { return float64(len(monitor.Suspects())) })
	return s, errors.Join(reg.Register(s.takeovers), reg.Register(suspects))
}

// TakeOver counts one.
func (s *Stats) TakeOver(cause string) { s.takeovers.WithLabelValues(cause).Inc() }
