package follower

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

// The causes of takeovers.
const (
	causeStream        = "stream"
	causeSuspect       = "suspect"
	causeDisk          = "disk"
	causeSecondOpinion = "second_opinion"
	// CauseScheduler stands for the death of the task's scheduler.
	CauseScheduler = "scheduler"
)

// Stats holds the metrics of takeovers.
type Stats struct {
	takeovers *prometheus.CounterVec
}

// NewStats creates the metrics and registers them with reg.
func NewStats(reg prometheus.Registerer, monitor *health.Monitor) (*Stats, error) {
	s := &Stats{takeovers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "supernode_scheduler_takeovers_total",
		Help: "Takeovers of tasks that this scheduler requested, by cause.",
	}, []string{"cause"})}
	suspects := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_suspects", Help: "CDN instances that do not answer health checks.",
	}, func() float64 { return float64(len(monitor.Suspects())) })
	return s, errors.Join(reg.Register(s.takeovers), reg.Register(suspects))
}

// TakeOver counts a requested takeover.
func (s *Stats) TakeOver(cause string) { s.takeovers.WithLabelValues(cause).Inc() }
