// Package metrics defines the metrics of the registry. Their labels are bounded:
// roles and kinds of writes, never a task or a member.
package metrics

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// The kinds of writes to the store, in addition to those of package ownership.
const (
	WriteMember     = "member"
	WriteLease      = "lease"
	WriteRevoke     = "revoke"
	WriteDrain      = "drain"
	WriteEra        = "era"
	WriteTaskFacts  = "facts"
	WriteTaskDelete = "delete"
)

// Metrics holds the metrics of one registry.
type Metrics struct {
	// Writes counts the writes that the store has accepted, by kind.
	Writes *prometheus.CounterVec
	// Unclaimed counts the resolutions that were answered without the store.
	Unclaimed prometheus.Counter
	// Conflicts counts the transactions whose conditions did not hold.
	Conflicts prometheus.Counter
	// Up is 1 while the store is watched and answers.
	Up prometheus.Gauge
}

// New creates the metrics and registers them with reg. It calls count at every scrape
// for the number of members of each role and of task records.
func New(reg prometheus.Registerer, count func() (map[record.Role]int, int)) (*Metrics, error) {
	m := &Metrics{
		Writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "supernode_registry_store_writes_total", Help: "Writes that the store has accepted, by kind.",
		}, []string{"kind"}),
		Unclaimed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_registry_unclaimed_total", Help: "Resolutions that were answered without the store, because it was unavailable.",
		}),
		Conflicts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_registry_conflicts_total", Help: "Transactions that found that the store has changed, and were tried again.",
		}),
		Up: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "supernode_registry_store_up", Help: "1 while the store is watched and answers, else 0.",
		}),
	}
	all := []prometheus.Collector{m.Writes, m.Unclaimed, m.Conflicts, m.Up, &countCollector{
		count:   count,
		members: prometheus.NewDesc("supernode_registry_members", "Members of the cluster in the cache, by role.", []string{"role"}, nil),
		records: prometheus.NewDesc("supernode_registry_records", "Task records in the cache.", nil, nil),
	}}
	for i, c := range all {
		if err := reg.Register(c); err != nil {
			for _, done := range all[:i] {
				reg.Unregister(done)
			}
			return nil, fmt.Errorf("registering the metrics: %w", err)
		}
	}
	return m, nil
}

// countCollector reads the counts at every scrape, so that no gauge has to be
// updated.
type countCollector struct {
	count            func() (map[record.Role]int, int)
	members, records *prometheus.Desc
}

// Describe sends the descriptions of the counts.
func (c *countCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.members
	out <- c.records
}

// Collect sends the counts.
func (c *countCollector) Collect(out chan<- prometheus.Metric) {
	members, records := c.count()
	for _, role := range record.Roles() {
		out <- prometheus.MustNewConstMetric(c.members, prometheus.GaugeValue, float64(members[role]), string(role))
	}
	out <- prometheus.MustNewConstMetric(c.records, prometheus.GaugeValue, float64(records))
}
