package registry_test

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"github.com/supernode-ha/supernode/pkg/settings"

	"github.com/supernode-ha/supernode/services/registry"
)

func TestEmbeddedStoreKeepsItsDataOverARestart(t *testing.T) {
	cfg := registry.Config{EmbeddedDir: t.TempDir()}
	n := startNode(t, cfg)
	stop := keepAlive(t, n, cdn("c"), scheduler("s"))
	before := claim(t, n, 1, "s").GetRecord()
	stop()
	require.NoError(t, n.stop())

	n = startNode(t, cfg)
	defer keepAlive(t, n, cdn("c"))()
	got, err := n.GetTask(testContext(t), &registryv1.GetTaskRequest{TaskId: taskID(1)})
	require.NoError(t, err)
	require.Equal(t, before.GetRevision(), got.GetRecord().GetRevision())
	require.EqualValues(t, 1, claim(t, n, 1, "s").GetRecord().GetEpoch())
}

func TestSeveralEmbeddedStoresRunInOneProcess(t *testing.T) {
	for range 3 {
		n := startNode(t, registry.Config{EmbeddedDir: t.TempDir()})
		sendHeartbeats(t, n, cdn("c"))
		watch(t, n).until("c")
	}
}

func TestEmbeddedStoreFailsIfItsDirectoryIsInUse(t *testing.T) {
	cfg := registry.Config{EmbeddedDir: t.TempDir()}
	n := startNode(t, cfg)
	second, err := registry.New(cfg, registry.Deps{Logger: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	defer cancel()
	err = second.Run(ctx)
	require.ErrorContains(t, err, "in use by another process")
	require.ErrorContains(t, err, cfg.EmbeddedDir)
	require.NoError(t, ctx.Err(), "Run fails at once")
	sendHeartbeats(t, n, cdn("c"))
}

func TestInvalidConfigsAreRejected(t *testing.T) {
	deps := registry.Deps{Logger: zap.NewNop(), Metrics: prometheus.NewRegistry()}
	for name, cfg := range map[string]registry.Config{
		"no store":    {},
		"two stores":  {Endpoints: []string{"127.0.0.1:1"}, EmbeddedDir: "x"},
		"short lease": {EmbeddedDir: "x", LeaseTTL: time.Millisecond},
		"dial":        {EmbeddedDir: "x", DialTimeout: -1},
		"replicas":    {EmbeddedDir: "x", Replicas: 11},
	} {
		_, err := registry.New(cfg, deps)
		require.Error(t, err, name)
	}
	_, err := registry.New(registry.Config{EmbeddedDir: "x"}, registry.Deps{})
	require.Error(t, err)
	_, err = registry.New(registry.Config{EmbeddedDir: "x"}, deps)
	require.NoError(t, err)
	_, err = registry.New(registry.Config{EmbeddedDir: "x"}, deps)
	require.Error(t, err, "two registries cannot share their metrics")
}

// childDir is the environment variable that makes the test binary a registry on the given
// directory.
const childDir = "REGISTRY_TEST_CHILD_DIR"

// child runs a registry, writes members and a record, and prints "written". It runs until
// it is killed.
func child(dir string) {
	service, err := registry.New(registry.Config{EmbeddedDir: dir}, registry.Deps{Logger: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	if err != nil {
		panic(err)
	}
	local := &localRegistrar{}
	service.Register(local)
	go func() {
		<-service.Ready()
		ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
		defer cancel()
		for !local.written(ctx) {
			if ctx.Err() != nil {
				panic("cannot write a member and a record")
			}
		}
		_, _ = fmt.Fprintln(os.Stdout, "written")
	}()
	_, _ = fmt.Fprintln(os.Stdout, service.Run(context.Background()))
	os.Exit(1)
}

// localRegistrar gets the implementation of the service, for direct calls.
type localRegistrar struct {
	registryv1.RegistryServiceServer
}

// written writes members and a record, and reports whether that has succeeded.
func (l *localRegistrar) written(ctx context.Context) bool {
	for _, m := range []*registryv1.Member{cdn("c"), scheduler("s")} {
		if _, err := l.Heartbeat(ctx, &registryv1.HeartbeatRequest{Member: m}); err != nil {
			return false
		}
	}
	resp, err := l.ResolveTask(ctx, resolveRequest(1, "s"))
	return err == nil && !resp.GetUnclaimed()
}

func (l *localRegistrar) RegisterService(_ *grpc.ServiceDesc, impl any) {
	l.RegistryServiceServer = impl.(registryv1.RegistryServiceServer)
}

func TestEmbeddedStoreKeepsItsDataIfTheProcessIsKilled(t *testing.T) {
	t.Parallel()
	cfg := registry.Config{EmbeddedDir: t.TempDir()}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+cfg.EmbeddedDir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "written\n", line)

	second, err := registry.New(cfg, registry.Deps{Logger: zap.NewNop(), Metrics: prometheus.NewRegistry()})
	require.NoError(t, err)
	require.ErrorContains(t, second.Run(testContext(t)), "in use by another process")

	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait(), "it was killed")
	n := startNode(t, cfg)
	got, err := n.GetTask(testContext(t), &registryv1.GetTaskRequest{TaskId: taskID(1)})
	require.NoError(t, err)
	require.Equal(t, "c", got.GetRecord().GetOwner())
	watch(t, n).until() // the leases of the members expire
}

func TestConfigFromSettingsWithAndWithoutHA(t *testing.T) {
	s := &settings.Settings{HomeDir: "home", EtcdAddress: "127.0.0.1:1, 127.0.0.2:1", LeaseTTL: time.Second}
	require.Equal(t, registry.Config{EmbeddedDir: filepath.Join("home", "etcd"), LeaseTTL: time.Second}, registry.ConfigFrom(s))
	s.UseHA = true
	require.Equal(t, registry.Config{Endpoints: []string{"127.0.0.1:1", "127.0.0.2:1"}, LeaseTTL: time.Second}, registry.ConfigFrom(s))
}
