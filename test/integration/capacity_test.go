package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/cdn"
)

// gauge is the value of a metric without labels.
func (n *node) gauge(name string) float64 {
	families, err := n.metrics.Gather()
	require.NoError(n.t, err)
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue()
		}
	}
	return 0
}

func TestEverySchedulerSharesTheCapacityOfACDN(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.addCDN("c", cdn.Config{})
	w.addScheduler("s1", patient())
	leaving := w.addScheduler("s2", patient())
	for _, c := range w.cdns {
		sharing := func(n float64) {
			require.Eventually(t, func() bool { return c.gauge("supernode_cdn_capacity_schedulers") == n }, patience, 5*time.Millisecond)
		}
		sharing(2)
		leaving.stop()
		sharing(1)
		require.Positive(t, c.gauge("supernode_cdn_transfer_window"))
	}
}
