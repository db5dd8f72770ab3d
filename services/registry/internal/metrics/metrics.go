// Package metrics is what the registry counts. Its labels are bounded: roles
// and kinds of writes, never a task or a member.
package metrics

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// The kinds of writes to the store, beside those of package ownership.
const (
	WriteMember     = "member"
	WriteLease      = "lease"
	WriteRevoke     = "revoke"
	WriteDrain      = "drain"
	WriteEra        = "era"
	WriteTaskFacts  = "facts"
	WriteTaskDelete = "delete"
)

// Metrics are the counters of one registry. Use New.
type Metrics struct {
	// Writes counts writes that the store accepted, by kind.
	Writes *prometheus.CounterVec
	// Unclaimed counts answers that the store was not asked for.
	Unclaimed prometheus.Counter
	// Conflicts counts transactions that found the store changed.
	Conflicts prometheus.Counter
	// Up is 1 while the store answers.
	Up prometheus.Gauge
}

// New makes the metrics and registers them with reg. The counts of members
// and records are read from count whenever they are asked for.
func New(reg prometheus.Registerer, count func() (map[record.Role]int, int)) (*Metrics, error) {
	m := &Metrics{
		Writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_registry_store_writes_total", Help: "Writes that the store accepted, by kind.",
		}, []string{"kind"}),
		Unclaimed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_registry_unclaimed_total", Help: "Tasks resolved without the store, which could not be reached.",
		}),
		Conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_registry_conflicts_total", Help: "Transactions that found the store changed and were tried again.",
		}),
		Up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "supernode_registry_store_up", Help: "1 while the store answers.",
		}),
	}
	all := []prometheus.Collector{m.Writes, m.Unclaimed, m.Conflicts, m.Up, &census{
		count:   count,
		members: prometheus.NewDesc("supernode_registry_members", "Members of the cluster as last seen, by role.", []string{"role"}, nil),
		records: prometheus.NewDesc("supernode_registry_records", "Task records as last seen.", nil, nil),
	}}
	for i, c := range all {
		if err := reg.Register(c); err != nil {
			for _, done := range all[:i] {
				reg.Unregister(done)
			}
			return nil, fmt.Errorf("register metrics of the registry: %w", err)
		}
	}
	return m, nil
}

// census counts when it is asked, so that nothing has to keep gauges in step.
type census struct {
	count            func() (map[record.Role]int, int)
	members, records *prometheus.Desc
}

func (c *census) Describe(out chan<- *prometheus.Desc) {
	out <- c.members
	out <- c.records
}

func (c *census) Collect(out chan<- prometheus.Metric) {
	members, records := c.count()
	for _, role := range record.Roles() {
		out <- prometheus.MustNewConstMetric(c.members, prometheus.GaugeValue, float64(members[role]), string(role))
	}
	out <- prometheus.MustNewConstMetric(c.records, prometheus.GaugeValue, float64(records))
}
