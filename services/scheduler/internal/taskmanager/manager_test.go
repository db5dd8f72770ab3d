package taskmanager

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpchealth "google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/replication"
	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	size        = 4 << 20
	testTimeout = 20 * time.Second
)

var taskID = strings.Repeat("0a", 32)

// testCluster is a manager with a fake registry and a fake CDN. The registry's record
// of the one task initially names another scheduler.
type testCluster struct {
	registryv1.UnimplementedRegistryServiceServer
	cdnv1.UnimplementedCdnServiceServer
	t            *testing.T
	manager      *Manager
	standbyStore *replication.StandbyStore
	adopt        bool // pull asks for adoption
	metrics      *prometheus.Registry
	watching     chan *registryv1.WatchTasksResponse
	other        cluster.Member // the other scheduler; it answers until kill is called
	kill         func()
	cdn          string
	killCDN      func()
	others       []cluster.Member // candidates for the task's standby

	mu            sync.Mutex
	record        *registryv1.TaskRecord // nil: there is no record
	storeDown     atomic.Bool            // the registry cannot reach its store
	otherResolves atomic.Int64           // calls of ResolveTask in favour of the other scheduler
	resolves      atomic.Int64           // other calls of ResolveTask
	registryDown  atomic.Bool            // the registry does not answer
	blockGetTask  chan struct{}          // if not nil, GetTask blocks until it is closed
	seeds         atomic.Int64           // calls of Seed
	sourceRefuses atomic.Bool
}

var errRegistryDown = rpcerr.New(codes.Unavailable, "", "the registry is down")

func (w *testCluster) GetTask(context.Context, *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	if w.blockGetTask != nil {
		<-w.blockGetTask
	}
	if w.registryDown.Load() {
		return nil, errRegistryDown
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.record == nil {
		return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "there is no record")
	}
	return &registryv1.GetTaskResponse{Record: w.record}, nil
}

func (w *testCluster) ResolveTask(_ context.Context, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	if w.registryDown.Load() {
		return nil, errRegistryDown
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if req.GetSchedulerId() == "other" {
		w.otherResolves.Add(1)
	} else {
		w.resolves.Add(1)
	}
	if w.record == nil {
		return nil, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN takes the task")
	}
	if req.GetLostScheduler() == w.record.GetScheduler() && req.GetLast().GetEpoch() == w.record.GetEpoch() && !w.storeDown.Load() {
		w.record = &registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: req.GetSchedulerId(), Epoch: w.record.GetEpoch() + 1}
	}
	return &registryv1.ResolveTaskResponse{
		Record: w.record, Unclaimed: w.storeDown.Load(),
		Owner:     &registryv1.Member{Id: "cdn", Endpoint: w.cdn, DownloadIp: "127.0.0.1", DownloadPort: 8001},
		Scheduler: &registryv1.Member{Id: w.record.GetScheduler(), Endpoint: w.other.Endpoint},
	}, nil
}

func (w *testCluster) WatchTasks(_ *registryv1.WatchTasksRequest, s registryv1.RegistryService_WatchTasksServer) error {
	for {
		select {
		case r := <-w.watching:
			if err := s.Send(r); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (w *testCluster) Seed(_ *cdnv1.SeedRequest, s cdnv1.CdnService_SeedServer) error {
	w.seeds.Add(1)
	if w.sourceRefuses.Load() {
		return rpcerr.Status(rpcerr.New(codes.NotFound, rpcerr.SourceNotFound, "404 Not Found")).Err()
	}
	for _, r := range []*cdnv1.SeedResponse{
		{Event: &cdnv1.SeedResponse_Facts{Facts: &cdnv1.SourceFacts{Length: 2 * (size - 5), PieceSize: size}}},
		{Event: &cdnv1.SeedResponse_Piece{Piece: &cdnv1.Piece{Num: 0, Md5: strings.Repeat("a", 32), Length: size}}},
		{Event: &cdnv1.SeedResponse_Piece{Piece: &cdnv1.Piece{Num: 1, Md5: strings.Repeat("b", 32), Length: size}}},
	} {
		if err := s.Send(r); err != nil {
			return err
		}
	}
	<-s.Context().Done()
	return nil
}

// newTestCluster starts a cluster. If others is not empty, the other scheduler serves
// what they register and is the standby of the task.
func newTestCluster(t *testing.T, others ...func(*grpc.Server)) *testCluster {
	t.Helper()
	w := &testCluster{
		t: t, metrics: prometheus.NewRegistry(), watching: make(chan *registryv1.WatchTasksResponse),
		record: &registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: "other", Epoch: 3},
	}
	registry, _ := rpctest.Serve(t, func(g *grpc.Server) { registryv1.RegisterRegistryServiceServer(g, w) })
	w.cdn, w.killCDN = rpctest.Serve(t, func(g *grpc.Server) {
		healthv1.RegisterHealthServer(g, grpchealth.NewServer())
		cdnv1.RegisterCdnServiceServer(g, w)
	})
	w.other.ID = "other"
	w.other.Endpoint, w.kill = rpctest.Serve(t, func(g *grpc.Server) {
		healthv1.RegisterHealthServer(g, grpchealth.NewServer())
		for _, f := range others {
			f(g)
		}
	})
	if len(others) > 0 {
		w.others = []cluster.Member{w.other}
	}
	pool := rpcclient.NewPool("", nil)
	conn, err := pool.Dial(registry)
	require.NoError(t, err)
	monitor := health.New(health.Config{Interval: 20 * time.Millisecond, Timeout: 2 * time.Second}, pool.Dial, zap.NewNop())
	stats, err := follower.NewStats(w.metrics, monitor)
	require.NoError(t, err)
	taskStats, err := task.NewStats(w.metrics)
	require.NoError(t, err)
	w.standbyStore, err = replication.NewStandbyStore(w.metrics)
	require.NoError(t, err)
	replicator, err := replication.NewReplicator(replication.Deps{
		SelfID: "me", Members: w, Dial: pool.Dial, Log: zap.NewNop(), Metrics: w.metrics,
	})
	require.NoError(t, err)
	w.manager = New(context.Background(), Config{GCInitialDelay: time.Hour, GCInterval: time.Hour, TaskExpireTime: time.Hour}, Deps{
		Log: zap.NewNop(), StandbyStore: w.standbyStore, Replicator: replicator, Reachability: health.NewReachability(monitor, w, pool.Dial),
		Follower: &follower.Follower{
			Resolver: resolver.New(resolver.Deps{
				SelfID: "me", Registry: registryv1.NewRegistryServiceClient(conn), Schedulers: health.New(health.Default(), pool.Dial, zap.NewNop()), Log: zap.NewNop(),
				CDNs:          func() []cluster.Member { return w.Members(cluster.CDN) },
				FindScheduler: func(id string) (cluster.Member, bool) { return w.other, id == "other" },
				TookOver:      func() { stats.TakeOver(follower.CauseScheduler) },
			}),
			Health: monitor, Dial: pool.Dial, Stats: stats, Log: zap.NewNop(),
		},
		Task: task.Deps{Log: zap.NewNop(), Limits: swarm.Limits{Up: 5, Down: 4}, Capacity: capacity.NewShares(), Stats: taskStats},
	})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.manager.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, pool.Close())
	})
	return w
}

// testCluster also implements the member list, which never changes.
func (w *testCluster) Schedulers() []cluster.Member { return w.others }

func (w *testCluster) Members(cluster.Role) []cluster.Member {
	return []cluster.Member{{ID: "cdn", Role: cluster.CDN, Endpoint: w.cdn}}
}

func (*testCluster) Changed() <-chan struct{} { return nil }

func (w *testCluster) register(peer string) (swarm.Facts, error) {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), testTimeout)
	defer cancel()
	return w.manager.Register(ctx, taskID, "http://source/file", follower.Source{URL: "http://source/file"},
		swarm.PeerInfo{ID: peer, IP: "127.0.1.1", Port: 20001})
}

// pull sends the first pull of a peer, which reports a piece from an unknown CDN.
func (w *testCluster) pull(peer string, num int32) (task.Answer, error) {
	w.t.Helper()
	t, err := w.manager.Get(w.t.Context(), taskID, w.adopt)
	if err != nil {
		return task.Answer{}, err
	}
	return t.Pull(w.t.Context(), task.Pull{
		PeerID: peer, Stage: task.Started, Outcome: task.Written, Num: num, Size: size, From: "cdnnode:127.0.0.99~" + taskID, MaxWait: testTimeout, Adopt: w.adopt,
	})
}

// takeovers returns the number of requested takeovers by cause.
func (w *testCluster) takeovers(t require.TestingT) map[string]int {
	families, err := w.metrics.Gather()
	require.NoError(t, err)
	counts := make(map[string]int)
	for _, f := range families {
		if f.GetName() != "supernode_scheduler_takeovers_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			counts[m.GetLabel()[0].GetValue()] = int(m.GetCounter().GetValue())
		}
	}
	return counts
}

func TestTaskOfALiveSchedulerIsRefusedWithNotOwner(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	_, err := w.register("p")
	require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(err))
	require.Equal(t, w.other.Endpoint, rpcerr.From(err).Metadata["endpoint"])
	_, err = w.pull("p", 0)
	require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(err))
}

func TestPeersOfADeadSchedulerContinueAfterRegisteringAgain(t *testing.T) {
	t.Parallel()
	for name, storeDown := range map[string]bool{"claimed": false, "while the store is unavailable": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTestCluster(t)
			w.storeDown.Store(storeDown)
			w.kill()
			_, err := w.pull("p", 0)
			require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err), "the peer has to register again")
			facts, err := w.register("p")
			require.NoError(t, err)
			require.EqualValues(t, size, facts.PieceSize)

			// The peer reports its pieces with its next pulls, or when they are offered.
			require.Eventually(t, func() bool {
				answer, err := w.pull("p", 0)
				require.NoError(t, err)
				last := len(answer.Offers) - 1 // the sentinel may precede it
				return last >= 0 && answer.Offers[last].Num == 1
			}, testTimeout, time.Millisecond)
			_, err = w.register("late")
			require.NoError(t, err)
			_, err = w.pull("unknown", 0)
			require.Equal(t, rpcerr.PeerNotFound, rpcerr.ReasonOf(err))
			if !storeDown {
				require.Equal(t, map[string]int{follower.CauseScheduler: 1}, w.takeovers(t))
				return
			}
			require.EventuallyWithT(t, func(c *assert.CollectT) { // the request is repeated until the store confirms it
				counts := w.takeovers(c)
				require.Len(c, counts, 1)
				require.GreaterOrEqual(c, counts[follower.CauseScheduler], 3)
			}, testTimeout, time.Millisecond)
		})
	}
}

func TestRegisterTakesOverTheTaskOfADeadScheduler(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.kill()
	_, err := w.register("p")
	require.NoError(t, err)
	answer, err := w.pull("p", 1)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Offers)
}

func TestHeldPullReturnsNotOwnerWhenAnotherSchedulerTakesOver(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.kill()
	_, err := w.register("p")
	require.NoError(t, err)
	held := make(chan error, 1)
	e, err := w.manager.Get(t.Context(), taskID, false)
	require.NoError(t, err)
	require.Eventually(t, func() bool { // reports of pieces that have not landed are ignored
		require.NoError(t, e.Written(t.Context(), "p", 0, size))
		require.NoError(t, e.Written(t.Context(), "p", 1, size))
		list, _, err := e.Holdings(t.Context(), []string{"p"}, 10)
		return err == nil && len(list) == 1 && len(list[0].Pieces) == 2
	}, testTimeout, time.Millisecond)
	go func() {
		_, err := e.Pull(t.Context(), task.Pull{PeerID: "p", MaxWait: testTimeout})
		held <- err
	}()
	w.mu.Lock()
	w.record = &registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: "third", Epoch: 9}
	w.mu.Unlock()
	select {
	case w.watching <- &registryv1.WatchTasksResponse{Gone: []string{taskID}}:
	case <-time.After(testTimeout):
		require.FailNow(t, "the watch is not read")
	}
	require.Equal(t, rpcerr.NotOwner, rpcerr.ReasonOf(<-held))
	require.Eventually(t, func() bool { return w.manager.Count() == 0 }, testTimeout, time.Millisecond)
}

func TestTaskWhoseSourceRefusesAtOnceIsReplacedByARefusal(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.record.Scheduler = "me"
	w.manager.cfg.FailAccessInterval = time.Hour
	w.sourceRefuses.Store(true)
	requireRefused := func(err error) {
		t.Helper()
		require.Equal(t, rpcerr.SourceNotFound, rpcerr.ReasonOf(err))
	}
	_, err := w.register("p")
	requireRefused(err)
	require.Eventually(t, func() bool { return w.manager.Count() == 0 }, testTimeout, time.Millisecond, "the task is removed")
	_, err = w.register("q")
	requireRefused(err)
	_, err = w.pull("p", 0)
	requireRefused(err)
	require.EqualValues(t, 1, w.seeds.Load(), "the source is not asked again")

	w.sourceRefuses.Store(false)
	source := follower.Source{URL: "http://source/file", Headers: []string{"Authorization: yes"}}
	_, err = w.manager.Register(t.Context(), taskID, "http://source/file", source, swarm.PeerInfo{ID: "r", IP: "127.0.1.1", Port: 20001})
	require.NoError(t, err, "another request is not refused")
	_, err = w.register("q")
	require.NoError(t, err, "the refusal has ended")
}

func TestStoppedManagerRefusesRegistrations(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.manager.cancel()
	_, err := w.register("p")
	require.Equal(t, codes.Unavailable, rpcerr.From(err).Code)
}
