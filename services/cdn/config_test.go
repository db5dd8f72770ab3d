package cdn_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/services/cdn"
)

func TestNewChecksEverything(t *testing.T) {
	listener := listen(t)
	t.Cleanup(func() { require.NoError(t, listener.Close()) })
	metrics := prometheus.NewRegistry()
	good := func() (cdn.Config, cdn.Deps) {
		return cdn.Config{ID: "cdn-1", HomeDir: t.TempDir()}, cdn.Deps{
			Logger: zap.NewNop(), Metrics: metrics, Registry: registryv1.NewRegistryServiceClient(nil), Download: listener,
		}
	}
	for name, spoil := range map[string]func(*cdn.Config, *cdn.Deps){
		"id":             func(c *cdn.Config, _ *cdn.Deps) { c.ID = "" },
		"home":           func(c *cdn.Config, _ *cdn.Deps) { c.HomeDir = "" },
		"home is a file": func(c *cdn.Config, _ *cdn.Deps) { c.HomeDir = "go.mod" },
		"bandwidth":      func(c *cdn.Config, _ *cdn.Deps) { c.MaxBandwidth = -1 },
		"upload":         func(c *cdn.Config, _ *cdn.Deps) { c.MaxUploadBandwidth = -1 },
		"pool":           func(c *cdn.Config, _ *cdn.Deps) { c.PoolSize = -1 },
		"big pool":       func(c *cdn.Config, _ *cdn.Deps) { c.PoolSize = 5000 },
		"facts time":     func(c *cdn.Config, _ *cdn.Deps) { c.FactsTimeout = 5 * time.Second },
		"idle time":      func(c *cdn.Config, _ *cdn.Deps) { c.IdleTimeout = -1 },
		"connect time":   func(c *cdn.Config, _ *cdn.Deps) { c.ConnectTimeout = -1 },
		"drain time":     func(c *cdn.Config, _ *cdn.Deps) { c.DrainTimeout = -1 },
		"answer time":    func(c *cdn.Config, _ *cdn.Deps) { c.AnswerTimeout = -1 },
		"replace time":   func(c *cdn.Config, _ *cdn.Deps) { c.ReplaceDelay = -1 },
		"no dial": func(_ *cdn.Config, d *cdn.Deps) {
			d.Members = cluster.NewView(d.Registry, zap.NewNop())
		},
		"no logger":   func(_ *cdn.Config, d *cdn.Deps) { d.Logger = nil },
		"no metrics":  func(_ *cdn.Config, d *cdn.Deps) { d.Metrics = nil },
		"no registry": func(_ *cdn.Config, d *cdn.Deps) { d.Registry = nil },
		"no listener": func(_ *cdn.Config, d *cdn.Deps) { d.Download = nil },
	} {
		cfg, deps := good()
		spoil(&cfg, &deps)
		_, err := cdn.New(cfg, deps)
		require.Error(t, err, name)
	}
	cfg, deps := good()
	_, err := cdn.New(cfg, deps)
	require.NoError(t, err, "nothing was left registered by those that failed")
	cfg.HomeDir = t.TempDir()
	_, err = cdn.New(cfg, deps)
	require.Error(t, err, "two instances cannot share their metrics")
	deps.Metrics = prometheus.NewRegistry()
	_, err = cdn.New(cfg, deps)
	require.NoError(t, err, "nothing was left locked by the one that failed")
}
