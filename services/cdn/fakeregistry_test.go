package cdn_test

import (
	"context"
	"maps"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn"
)

// fakeRegistry is a registry that has only the records that the test writes.
type fakeRegistry struct {
	*records
	conn *grpc.ClientConn

	nodes        map[string]*node
	state        sync.Mutex
	members      map[string]*registryv1.Member     // guarded by state
	tasks        map[string]*registryv1.TaskRecord // guarded by state
	changed      chan struct{}                     // closed and replaced; guarded by state
	resignations []*registryv1.ResignTaskRequest   // guarded by state
	silent       bool                              // records are not sent; guarded by state
}

func newFakeRegistry(t testing.TB) *fakeRegistry {
	t.Helper()
	reg := &fakeRegistry{
		records: new(records), members: make(map[string]*registryv1.Member),
		nodes: make(map[string]*node), tasks: make(map[string]*registryv1.TaskRecord), changed: make(chan struct{}),
	}
	conn, stop := serve(t, func(s grpc.ServiceRegistrar) { registryv1.RegisterRegistryServiceServer(s, reg) })
	reg.conn = conn
	t.Cleanup(stop)
	return reg
}

func (reg *fakeRegistry) change(what func()) {
	reg.state.Lock()
	defer reg.state.Unlock()
	what()
	close(reg.changed)
	reg.changed = make(chan struct{})
}

// write writes the record of a task with the next revision.
func (reg *fakeRegistry) write(id string, o *origin, epoch int64, owner string, replicas ...string) {
	reg.change(func() {
		rev := int64(1)
		if old := reg.tasks[id]; old != nil {
			rev = old.GetRevision() + 1
		}
		reg.tasks[id] = &registryv1.TaskRecord{
			TaskId: id, Url: o.URL + "/file", Owner: owner, Replicas: replicas, Epoch: epoch, Revision: rev,
			Status: registryv1.TaskStatus_TASK_STATUS_RUNNING,
		}
	})
}

// writeFacts writes the record of a task with facts of its source.
func (reg *fakeRegistry) writeFacts(id string, o *origin, epoch int64, facts *cdnv1.SourceFacts, owner string, replicas ...string) {
	reg.write(id, o, epoch, owner, replicas...)
	reg.change(func() {
		r := reg.tasks[id]
		r.Revision++
		r.PieceSize = facts.GetPieceSize()
		r.Source = &registryv1.SourceIdentity{
			Length: facts.GetLength(), Etag: facts.GetEtag(), LastModified: facts.GetLastModified(),
		}
	})
}

func (reg *fakeRegistry) ResignTask(_ context.Context, req *registryv1.ResignTaskRequest) (*registryv1.ResignTaskResponse, error) {
	var record *registryv1.TaskRecord
	reg.change(func() {
		reg.resignations = append(reg.resignations, req)
		record = reg.tasks[req.GetTaskId()]
		if record != nil {
			record.Revision++
			record.Replicas = slices.DeleteFunc(record.Replicas, func(cdn string) bool { return cdn == req.GetCdnId() })
			record = proto.CloneOf(record)
		}
	})
	return &registryv1.ResignTaskResponse{Record: record}, nil
}

func (reg *fakeRegistry) resigned(id string) (cdns []string) {
	reg.state.Lock()
	defer reg.state.Unlock()
	for _, req := range reg.resignations {
		if req.GetTaskId() == id {
			cdns = append(cdns, req.GetCdnId())
		}
	}
	return cdns
}

func (reg *fakeRegistry) setSilent(silent bool) { reg.change(func() { reg.silent = silent }) }

func (reg *fakeRegistry) WatchMembers(_ *registryv1.WatchMembersRequest, s registryv1.RegistryService_WatchMembersServer) error {
	for {
		reg.state.Lock()
		list := slices.Collect(maps.Values(reg.members))
		changed := reg.changed
		reg.state.Unlock()
		if err := s.Send(&registryv1.WatchMembersResponse{Members: list}); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func (reg *fakeRegistry) WatchTasks(req *registryv1.WatchTasksRequest, s registryv1.RegistryService_WatchTasksServer) error {
	sent := make(map[string]int64)
	for first := true; ; first = false {
		reg.state.Lock()
		message := &registryv1.WatchTasksResponse{Complete: first, Replicas: 1}
		for id, r := range reg.tasks {
			if reg.silent || sent[id] == r.GetRevision() {
				continue
			}
			named := r.GetOwner() == req.GetMemberId() || slices.Contains(r.GetReplicas(), req.GetMemberId())
			switch {
			case named:
				message.Records = append(message.Records, proto.CloneOf(r))
			case sent[id] != 0:
				message.Gone = append(message.Gone, id)
			}
			sent[id] = r.GetRevision()
		}
		changed := reg.changed
		reg.state.Unlock()
		if err := s.Send(message); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-s.Context().Done():
			return s.Context().Err()
		}
	}
}

func (reg *fakeRegistry) GetTask(_ context.Context, req *registryv1.GetTaskRequest) (*registryv1.GetTaskResponse, error) {
	reg.state.Lock()
	defer reg.state.Unlock()
	r := reg.tasks[req.GetTaskId()]
	if r == nil {
		return nil, rpcerr.Status(rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "no such task")).Err()
	}
	return &registryv1.GetTaskResponse{Record: proto.CloneOf(r)}, nil
}

func (reg *fakeRegistry) AnnounceCopies(context.Context, *registryv1.AnnounceCopiesRequest) (*registryv1.AnnounceCopiesResponse, error) {
	return &registryv1.AnnounceCopiesResponse{}, nil
}

// join runs an instance and adds it to the members.
func (reg *fakeRegistry) join(t testing.TB, id string, cfg cdn.Config) *node {
	t.Helper()
	return reg.joinAt(t, id, cfg, listen(t))
}

func (reg *fakeRegistry) joinAt(t testing.TB, id string, cfg cdn.Config, listener net.Listener) *node {
	t.Helper()
	if cfg.HomeDir == "" {
		cfg.HomeDir = t.TempDir()
	}
	cfg.ID = id
	cfg.RetryDelay = time.Millisecond
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 50 * time.Millisecond
	}
	if cfg.AnswerTimeout == 0 {
		cfg.AnswerTimeout = testTimeout // a slow instance must not be skipped
	}
	log := zaptest.NewLogger(t, zaptest.Level(levelOf(t)))
	n := &node{home: cfg.HomeDir, metrics: prometheus.NewRegistry(), records: reg.records, download: listener.Addr().String()}
	registry := registryv1.NewRegistryServiceClient(reg.conn)
	view := cluster.NewView(registry, log)
	pool := rpcclient.NewPool("", nil)
	service, err := cdn.New(cfg, cdn.Deps{
		Logger: log, Metrics: n.metrics, Registry: registry, Download: listener, Members: view, Dial: pool.Dial,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = view.Run(ctx) }) // always returns nil
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	conn, stopServer := serve(t, service.Register)
	n.CdnServiceClient = cdnv1.NewCdnServiceClient(conn)
	host, port, err := net.SplitHostPort(n.download)
	require.NoError(t, err)
	number, err := strconv.Atoi(port)
	require.NoError(t, err)
	reg.addMember(&registryv1.Member{
		Id: id, Role: cluster.CDN, Endpoint: conn.Target(), DownloadIp: host, DownloadPort: int32(number),
		State: registryv1.MemberState_MEMBER_STATE_READY,
	})
	n.stop = sync.OnceFunc(func() {
		reg.change(func() { delete(reg.members, id) })
		cancel()
		require.NoError(t, <-ended)
		stopServer()
		running.Wait()
		require.NoError(t, pool.Close())
	})
	t.Cleanup(n.stop)
	n.isMember = func(id string) bool {
		_, there := view.Find(cluster.CDN, id)
		return there
	}
	reg.nodes[id] = n
	return n
}

func (reg *fakeRegistry) addMember(m *registryv1.Member) {
	reg.change(func() { reg.members[m.GetId()] = m })
}
