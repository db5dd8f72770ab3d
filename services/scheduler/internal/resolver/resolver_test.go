package resolver

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpchealth "google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 20 * time.Second

var taskID = strings.Repeat("0a", 32)

// testCluster is a resolver with a scripted registry and another scheduler.
type testCluster struct {
	registryv1.UnimplementedRegistryServiceServer
	*Resolver
	get       func() (*registryv1.GetTaskResponse, error)
	resolve   func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error)
	getCalls  atomic.Int64
	takeovers atomic.Int64
	members   []cluster.Member
	// other is a scheduler that answers pings until kill is called. It is a member
	// until left is set.
	other cluster.Member
	kill  func()
	left  atomic.Bool
	// leaving is set while this scheduler is stopping.
	leaving atomic.Bool
}

func (w *testCluster) mayTake() bool { return !w.leaving.Load() }

func (w *testCluster) GetTask(context.Context, *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	w.getCalls.Add(1)
	resp, err := w.get()
	return resp, rpcerr.Status(err).Err()
}

func (w *testCluster) ResolveTask(_ context.Context, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	resp, err := w.resolve(req)
	return resp, rpcerr.Status(err).Err()
}

func newTestCluster(t *testing.T) *testCluster {
	t.Helper()
	w := &testCluster{members: []cluster.Member{{ID: "a", Endpoint: "127.0.0.1:1"}, {ID: "b", Endpoint: "127.0.0.1:2"}}}
	registry, _ := rpctest.Serve(t, func(g *grpc.Server) { registryv1.RegisterRegistryServiceServer(g, w) })
	w.other.ID = "other"
	w.other.Endpoint, w.kill = rpctest.Serve(t, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, grpchealth.NewServer()) })
	pool := rpcclient.NewPool("", nil)
	conn, err := pool.Dial(registry)
	require.NoError(t, err)
	monitor := health.New(health.Default(), pool.Dial, zap.NewNop())
	w.Resolver = New(Deps{
		SelfID: "me", Registry: registryv1.NewRegistryServiceClient(conn), Schedulers: monitor, Log: zap.NewNop(),
		CDNs:          func() []cluster.Member { return w.members },
		FindScheduler: func(string) (cluster.Member, bool) { return w.other, !w.left.Load() },
		TookOver:      func() { w.takeovers.Add(1) },
	})
	t.Cleanup(func() {
		monitor.Close()
		require.NoError(t, pool.Close())
	})
	return w
}

// assignToOther makes the registry return a record that names the other scheduler. A
// request that reports the other scheduler as lost, or one with a last record
// once it has left, makes this scheduler the new one.
func (w *testCluster) assignToOther(epoch int64) {
	record := &registryv1.TaskRecord{TaskId: taskID, Owner: "a", Scheduler: "other", Epoch: epoch}
	w.get = func() (*registryv1.GetTaskResponse, error) { return &registryv1.GetTaskResponse{Record: record}, nil }
	w.resolve = func(req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		resp := &registryv1.ResolveTaskResponse{
			Record: record, Owner: &registryv1.Member{Id: "a"}, Scheduler: &registryv1.Member{Id: "other", Endpoint: w.other.Endpoint},
		}
		if w.left.Load() {
			resp.Scheduler = nil
		}
		lost := req.GetLostScheduler() == "other" && req.GetLast().GetEpoch() == epoch
		if lost || w.left.Load() && req.GetLast() != nil {
			resp.Record = &registryv1.TaskRecord{TaskId: taskID, Owner: "a", Scheduler: "me", Epoch: epoch + 1}
			resp.Scheduler = &registryv1.Member{Id: "me"}
		}
		return resp, nil
	}
}

// acquire returns the error of Acquire.
func (w *testCluster) acquire(ctx context.Context) error {
	_, err := w.Acquire(ctx, taskID, w.mayTake)
	return err
}

// requireAcquired requires that this scheduler answers for the task now.
func requireAcquired(t *testing.T, w *testCluster) {
	t.Helper()
	assignment, err := w.Acquire(t.Context(), taskID, w.mayTake)
	require.NoError(t, err)
	require.Equal(t, taskID, assignment.Record.GetTaskId())
}

// resolveFirst resolves the task without a last claim.
func (w *testCluster) resolveFirst(t *testing.T) (Claim, error) {
	t.Helper()
	return w.Resolve(t.Context(), Task{ID: taskID, URL: "http://source/file"}, Claim{}, Lost{})
}

func requireNotOwner(t *testing.T, w *testCluster, err error) {
	t.Helper()
	e := rpcerr.From(err)
	require.Equal(t, rpcerr.NotOwner, e.Reason, "%v", err)
	require.Equal(t, "other", e.Metadata["scheduler_id"])
	require.Equal(t, w.other.Endpoint, e.Metadata["endpoint"])
}

func TestLastClaimIsKeptWithoutARegistry(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.resolve = func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return nil, rpcerr.New(codes.Unavailable, "", "the registry is down")
	}
	last := Claim{Epoch: 2, Owner: w.members[0], record: &registryv1.TaskRecord{Owner: "a", Epoch: 2}}
	c, err := w.Resolve(t.Context(), Task{ID: taskID, URL: ""}, last, Lost{Owner: "a"})
	require.NoError(t, err)
	require.True(t, c.Unclaimed)
	require.Equal(t, "a", c.Owner.ID, "only the registry may replace the owner of a claimed task")
}

func TestCDNIsChosenInRendezvousOrderWithoutARegistry(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.resolve = func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return nil, rpcerr.New(codes.Unavailable, "", "the registry is down")
	}
	want, _ := ring.First(taskID, []ring.Node{{ID: "a"}, {ID: "b"}})
	c, err := w.Resolve(t.Context(), Task{ID: taskID, URL: "http://me:secret@source/file#part"}, Claim{}, Lost{})
	require.NoError(t, err)
	require.Equal(t, want, c.Owner.ID)
	require.Zero(t, c.Epoch)
	require.Equal(t, "http://source/file", c.record.GetUrl())
	other, err := w.Resolve(t.Context(), Task{ID: taskID, URL: ""}, c, Lost{Owner: want})
	require.NoError(t, err)
	require.NotEqual(t, want, other.Owner.ID)
	_, err = w.Resolve(t.Context(), Task{ID: taskID, URL: ""}, other, Lost{Owner: "a", Excluded: []string{"b"}})
	require.Error(t, err)
	for i := range w.members {
		w.members[i].Draining = true
	}
	_, err = w.resolveFirst(t)
	require.Equal(t, rpcerr.NoCDN, rpcerr.ReasonOf(err))
}
