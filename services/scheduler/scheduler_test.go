package scheduler_test

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/services/scheduler"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// validConfig returns a configuration and dependencies with which New succeeds.
func validConfig(t *testing.T) (scheduler.Config, scheduler.Deps) {
	t.Helper()
	pool := rpcclient.NewPool("", nil)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	conn, err := pool.Dial("127.0.0.1:1")
	require.NoError(t, err)
	registry := registryv1.NewRegistryServiceClient(conn)
	return scheduler.Config{
			ID: "s", UpLimit: 5, DownLimit: 4, GCInterval: time.Minute, TaskExpireTime: time.Minute,
		}, scheduler.Deps{
			Logger: zap.NewNop(), Metrics: prometheus.NewRegistry(), Registry: registry,
			Members: cluster.NewView(registry, zap.NewNop()), Dial: pool.Dial,
		}
}

func TestNewRefusesInvalidSettingsAndMissingDependencies(t *testing.T) {
	for name, invalidate := range map[string]func(*scheduler.Config, *scheduler.Deps){
		"no id":             func(c *scheduler.Config, _ *scheduler.Deps) { c.ID = "" },
		"no upload":         func(c *scheduler.Config, _ *scheduler.Deps) { c.UpLimit = 0 },
		"no download":       func(c *scheduler.Config, _ *scheduler.Deps) { c.DownLimit = -1 },
		"no collection":     func(c *scheduler.Config, _ *scheduler.Deps) { c.GCInterval = 0 },
		"no time for tasks": func(c *scheduler.Config, _ *scheduler.Deps) { c.TaskExpireTime = 0 },
		"negative interval": func(c *scheduler.Config, _ *scheduler.Deps) { c.FailAccessInterval = -1 },
		"no logger":         func(_ *scheduler.Config, d *scheduler.Deps) { d.Logger = nil },
		"no registry":       func(_ *scheduler.Config, d *scheduler.Deps) { d.Registry = nil },
		"no members":        func(_ *scheduler.Config, d *scheduler.Deps) { d.Members = nil },
		"no dial function":  func(_ *scheduler.Config, d *scheduler.Deps) { d.Dial = nil },
	} {
		cfg, deps := validConfig(t)
		invalidate(&cfg, &deps)
		_, err := scheduler.New(cfg, deps)
		require.Error(t, err, name)
	}
}

func TestSchedulersInOneProcessNeedSeparateMetricsRegistries(t *testing.T) {
	cfg, deps := validConfig(t)
	s, err := scheduler.New(cfg, deps)
	require.NoError(t, err)
	s.Register(grpc.NewServer())
	_, err = scheduler.New(cfg, deps)
	require.Error(t, err)
	deps.Metrics = prometheus.NewRegistry()
	_, err = scheduler.New(cfg, deps)
	require.NoError(t, err)
}
