package follower

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	size        = 4 << 20
	pieces      = 4
	testTimeout = 20 * time.Second
)

var taskID = strings.Repeat("0a", 32)

// fakeCDN is a scripted CDN instance.
type fakeCDN struct {
	cdnv1.UnimplementedCdnServiceServer
	healthv1.UnimplementedHealthServer
	member *registryv1.Member
	kill   func()

	// seeds and follows receive a value for every stream that is opened.
	seeds        chan *cdnv1.SeedRequest
	follows      chan struct{}
	followsEnded chan struct{} // a value for every Follow that the client ends

	mu      sync.Mutex
	hanging chan struct{} // not nil while the instance hangs; closed when it resumes
	seed    func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error
	follow  func(send func(*cdnv1.FollowResponse)) error
}

// hang makes the instance answer nothing until resume is called, like SIGSTOP.
func (c *fakeCDN) hang() (resume func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	hung := make(chan struct{})
	c.hanging = hung
	return sync.OnceFunc(func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.hanging = nil
		close(hung)
	})
}

func (c *fakeCDN) waitWhileHanging(ctx context.Context) {
	c.mu.Lock()
	hung := c.hanging
	c.mu.Unlock()
	if hung == nil {
		return
	}
	select {
	case <-hung:
	case <-ctx.Done():
	}
}

func (c *fakeCDN) Check(ctx context.Context, _ *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	c.waitWhileHanging(ctx)
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}, ctx.Err()
}

// script replaces the instance's behaviour. A nil function leaves it unchanged.
func (c *fakeCDN) script(
	seed func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error, follow func(func(*cdnv1.FollowResponse)) error,
) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if seed != nil {
		c.seed = seed
	}
	if follow != nil {
		c.follow = follow
	}
}

func (c *fakeCDN) Seed(req *cdnv1.SeedRequest, s cdnv1.CdnService_SeedServer) error {
	c.waitWhileHanging(s.Context())
	c.mu.Lock()
	seed := c.seed
	c.mu.Unlock()
	select {
	case c.seeds <- req:
	default:
	}
	if err := seed(req, func(r *cdnv1.SeedResponse) { _ = s.Send(r) }); err != nil {
		return err
	}
	<-s.Context().Done()
	return nil
}

func (c *fakeCDN) Follow(_ *cdnv1.FollowRequest, s cdnv1.CdnService_FollowServer) error {
	c.waitWhileHanging(s.Context())
	c.mu.Lock()
	follow := c.follow
	c.mu.Unlock()
	select {
	case c.follows <- struct{}{}:
	default:
	}
	if err := follow(func(r *cdnv1.FollowResponse) { _ = s.Send(r) }); err != nil {
		return err
	}
	<-s.Context().Done()
	select {
	case c.followsEnded <- struct{}{}:
	default:
	}
	return nil
}

func facts() *cdnv1.SourceFacts {
	return &cdnv1.SourceFacts{Length: pieces * (size - 5), PieceSize: size, Etag: `"1"`}
}

func md5Of(num int32) string { return strings.Repeat("0", 31) + string('a'+num) }

// announces returns a Seed script that sends the facts and the given pieces.
func announces(nums ...int32) func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error {
	return func(_ *cdnv1.SeedRequest, send func(*cdnv1.SeedResponse)) error {
		send(&cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Facts{Facts: facts()}})
		for _, num := range nums {
			send(&cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Piece{Piece: &cdnv1.Piece{Num: num, Md5: md5Of(num), Length: size}}})
		}
		return nil
	}
}

// followAnnounces returns a Follow script that sends the facts and the given pieces.
func followAnnounces(nums ...int32) func(func(*cdnv1.FollowResponse)) error {
	return func(send func(*cdnv1.FollowResponse)) error {
		send(&cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Facts{Facts: facts()}})
		for _, num := range nums {
			send(&cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{Piece: &cdnv1.Piece{Num: num, Md5: md5Of(num), Length: size}}})
		}
		return nil
	}
}

// testCluster is a followed task with fake CDNs and a scripted registry.
type testCluster struct {
	registryv1.UnimplementedRegistryServiceServer
	t               *testing.T
	task            *task.Task
	monitor         *health.Monitor
	stats           *Stats
	cdns            map[string]*fakeCDN
	resolveRequests chan *registryv1.ResolveTaskRequest // all requests, as long as there is room
	stopRegistry    func()                              // stops the registry
	watching        chan *registryv1.WatchTasksResponse
	ended           chan error // the result of Follow

	mu      sync.Mutex
	resolve func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error)
}

func (w *testCluster) ResolveTask(_ context.Context, req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
	w.mu.Lock()
	resolve := w.resolve
	w.mu.Unlock()
	resp, err := resolve(req)
	select {
	case w.resolveRequests <- req:
	default:
	}
	return resp, err
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

// setResolve replaces the registry's behaviour.
func (w *testCluster) setResolve(f func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.resolve = f
}

// record returns an answer that names an owner and replicas.
func (w *testCluster) record(epoch int64, owner string, replicas ...string) *registryv1.ResolveTaskResponse {
	resp := &registryv1.ResolveTaskResponse{
		Record: &registryv1.TaskRecord{
			TaskId: taskID, Owner: owner, Replicas: replicas, Scheduler: "me", Epoch: epoch, Revision: 10*epoch + int64(len(replicas)),
		},
		Owner: w.cdns[owner].member,
	}
	for _, id := range replicas {
		resp.Replicas = append(resp.Replicas, w.cdns[id].member)
	}
	return resp
}

// resolveInOrder makes the first of ids owner and the others replicas. When the owner is
// lost, the next one that is not excluded becomes owner, in the next epoch.
func (w *testCluster) resolveInOrder(ids ...string) {
	epoch, order := int64(1), slices.Clone(ids)
	w.setResolve(func(req *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		if req.GetLostOwner() == order[0] && req.GetLast().GetEpoch() == epoch {
			i := slices.IndexFunc(order, func(id string) bool { return !slices.Contains(req.GetExcluded(), id) && id != req.GetLostOwner() })
			if i < 0 {
				return nil, rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN is left")
			}
			next := order[i]
			order = append(append([]string{next}, slices.DeleteFunc(order[1:], func(id string) bool { return id == next })...), order[0])
			epoch++
		}
		return w.record(epoch, order[0], order[1:]...), nil
	})
}

// newTestCluster starts the given CDNs. The first one is the owner, the others are
// replicas.
func newTestCluster(t *testing.T, ids ...string) *testCluster {
	t.Helper()
	w := &testCluster{
		t: t, cdns: make(map[string]*fakeCDN), resolveRequests: make(chan *registryv1.ResolveTaskRequest, 100),
		watching: make(chan *registryv1.WatchTasksResponse), ended: make(chan error, 1),
	}
	for i, id := range ids {
		c := &fakeCDN{seeds: make(chan *cdnv1.SeedRequest, 100), follows: make(chan struct{}, 100), followsEnded: make(chan struct{}, 1), seed: announces(), follow: followAnnounces()}
		endpoint, kill := rpctest.Serve(t, func(s *grpc.Server) {
			cdnv1.RegisterCdnServiceServer(s, c)
			healthv1.RegisterHealthServer(s, c)
		})
		c.kill = kill
		c.member = &registryv1.Member{
			Id: id, Role: cluster.CDN, Endpoint: endpoint, DownloadIp: "127.0.0." + string('1'+rune(i)), DownloadPort: 8001,
			State: registryv1.MemberState_MEMBER_STATE_READY,
		}
		w.cdns[id] = c
	}
	w.resolveInOrder(ids...)
	return w
}

// follow starts the registry and the task, and follows the task.
func (w *testCluster) follow() {
	t := w.t
	t.Helper()
	endpoint, stopRegistry := rpctest.Serve(t, func(s *grpc.Server) { registryv1.RegisterRegistryServiceServer(s, w) })
	w.stopRegistry = stopRegistry
	pool := rpcclient.NewPool("", nil)
	conn, err := pool.Dial(endpoint)
	require.NoError(t, err)
	w.monitor = health.New(health.Config{Interval: 20 * time.Millisecond, Timeout: 2 * time.Second}, pool.Dial, zap.NewNop())
	reg := prometheus.NewRegistry()
	w.stats, err = NewStats(reg, w.monitor)
	require.NoError(t, err)
	taskResolver := resolver.New(resolver.Deps{
		SelfID: "me", Registry: registryv1.NewRegistryServiceClient(conn), Schedulers: w.monitor, Log: zap.NewNop(),
		CDNs: func() (list []cluster.Member) {
			for _, c := range w.cdns {
				list = append(list, cluster.FromProto(c.member))
			}
			return list
		},
		FindScheduler: func(string) (cluster.Member, bool) { return cluster.Member{}, false },
		TookOver:      func() {},
	})
	stats, err := task.NewStats(reg)
	require.NoError(t, err)
	w.task = task.New(taskID, "http://source/file", task.Deps{
		Log: zap.NewNop(), Limits: swarm.Limits{Up: 5, Down: 4}, Capacity: capacity.NewShares(), Stats: stats,
	})
	follower := &Follower{Resolver: taskResolver, Health: w.monitor, Dial: pool.Dial, Stats: w.stats, Log: zap.NewNop()}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.task.Run(ctx) })
	wg.Go(func() { taskResolver.Watch(ctx) })
	wg.Go(func() {
		w.ended <- follower.Follow(ctx, taskID, "http://source/file", Source{URL: "http://source/file"}, w.task)
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
		w.monitor.Close()
		require.NoError(t, pool.Close())
	})
}

// waitFor receives from c until f accepts an element.
func waitFor[T any](t *testing.T, c <-chan T, f func(T) bool) T {
	t.Helper()
	timeout := time.After(testTimeout)
	for {
		select {
		case e := <-c:
			if f(e) {
				return e
			}
		case <-timeout:
			require.FailNow(t, "no such element was received")
		}
	}
}

func anyValue[T any](T) bool { return true }

// registerPeer registers a peer.
func (w *testCluster) registerPeer(id string) {
	w.t.Helper()
	_, err := w.task.Register(w.t.Context(), swarm.PeerInfo{ID: id, IP: "127.0.1.1", Port: 20001})
	require.NoError(w.t, err)
}

// requireOffer sends first pulls until a piece is offered from the given instance.
func (w *testCluster) requireOffer(peer, cdn string) swarm.Offer {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), testTimeout)
	defer cancel()
	pull := task.Pull{PeerID: peer, Stage: task.Started, MaxWait: time.Second}
	for {
		answer, err := w.task.Pull(ctx, pull)
		require.NoError(w.t, err)
		for _, o := range answer.Offers {
			if o.IP == w.cdns[cdn].member.GetDownloadIp() {
				return o
			}
		}
	}
}

// copies returns the CDN copies that are attached to the task.
func (w *testCluster) copies() []swarm.Copy {
	w.t.Helper()
	list, err := w.task.Copies(w.t.Context())
	require.NoError(w.t, err)
	return list
}
