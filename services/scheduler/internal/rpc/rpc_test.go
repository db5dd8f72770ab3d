package rpc

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpchealth "google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/health"
	"github.com/supernode-ha/supernode/services/scheduler/internal/replication"
	"github.com/supernode-ha/supernode/services/scheduler/internal/resolver"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
	"github.com/supernode-ha/supernode/services/scheduler/internal/taskmanager"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var taskID = strings.Repeat("0a", 32)

// cdns are the members of the cluster.
type cdns []cluster.Member

func (c cdns) Members(cluster.Role) []cluster.Member { return c }

func (cdns) Changed() <-chan struct{} { return nil }

// newClient returns a client of a scheduler without tasks, in a cluster with one CDN. The
// scheduler's registry implements no RPC.
func newClient(t *testing.T) (schedulerv1.SchedulerServiceClient, *prometheus.Registry) {
	t.Helper()
	registry, _ := rpctest.Serve(t, func(*grpc.Server) {})
	cdn, _ := rpctest.Serve(t, func(g *grpc.Server) { healthv1.RegisterHealthServer(g, grpchealth.NewServer()) })
	pool := rpcclient.NewPool("", nil)
	t.Cleanup(func() { require.NoError(t, pool.Close()) })
	conn, err := pool.Dial(registry)
	require.NoError(t, err)
	monitor := health.New(health.Default(), pool.Dial, zap.NewNop())
	t.Cleanup(monitor.Close)
	reg := prometheus.NewRegistry()
	standby, err := replication.NewStandbyStore(reg)
	require.NoError(t, err)
	tasks := taskmanager.New(t.Context(), taskmanager.Config{}, taskmanager.Deps{
		Log: zap.NewNop(), StandbyStore: standby, Replicator: &replication.Replicator{}, Follower: &follower.Follower{Resolver: resolver.New(resolver.Deps{
			SelfID: "me", Registry: registryv1.NewRegistryServiceClient(conn), Log: zap.NewNop(),
		})},
	})
	s, err := New(tasks, standby, health.NewReachability(monitor, cdns{{ID: "c", Role: cluster.CDN, Endpoint: cdn}}, pool.Dial), reg)
	require.NoError(t, err)
	endpoint, _ := rpctest.Serve(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, s) })
	conn, err = pool.Dial(endpoint)
	require.NoError(t, err)
	return schedulerv1.NewSchedulerServiceClient(conn), reg
}

func TestMessagesOfOtherSchedulersAreChecked(t *testing.T) {
	client, _ := newClient(t)
	bad := &schedulerv1.PeerMemory{Peer: &schedulerv1.Peer{Id: "../x"}}
	for name, m := range map[string]*schedulerv1.TaskMemory{
		"no task": {}, "bad task": {TaskId: "../x"}, "bad peer": {TaskId: taskID, Peers: []*schedulerv1.PeerMemory{bad}},
		"no peer": {TaskId: taskID, Peers: []*schedulerv1.PeerMemory{{}}},
	} {
		stream, err := client.Mirror(t.Context())
		require.NoError(t, err)
		require.NoError(t, stream.Send(&schedulerv1.MirrorRequest{SchedulerId: "other", Tasks: []*schedulerv1.TaskMemory{m}}))
		_, err = stream.Recv()
		require.Equal(t, codes.InvalidArgument, status.Code(err), name)
	}
	recalled, err := client.Recall(t.Context(), &schedulerv1.RecallRequest{TaskId: "../x"})
	require.NoError(t, err)
	_, err = recalled.Recv()
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

func TestRecallReturnsTheReplicatedState(t *testing.T) {
	client, _ := newClient(t)
	stream, err := client.Mirror(t.Context())
	require.NoError(t, err)
	state := &schedulerv1.TaskMemory{
		TaskId: taskID, TaskUrl: "http://h/f", Anew: true, Source: &cdnv1.Source{Url: "http://h/f"},
		Facts: &cdnv1.SourceFacts{Length: 10, PieceSize: 20},
		Peers: []*schedulerv1.PeerMemory{{Peer: &schedulerv1.Peer{Id: "p"}, Have: []uint64{1}}},
	}
	require.NoError(t, stream.Send(&schedulerv1.MirrorRequest{SchedulerId: "other", Seq: 7, Tasks: []*schedulerv1.TaskMemory{state}}))
	confirmation, err := stream.Recv()
	require.NoError(t, err)
	require.EqualValues(t, 7, confirmation.GetSeq())
	recalled, err := client.Recall(t.Context(), &schedulerv1.RecallRequest{TaskId: taskID})
	require.NoError(t, err)
	part, err := recalled.Recv()
	require.NoError(t, err)
	require.Equal(t, "http://h/f", part.GetMemory().GetTaskUrl())
	require.Len(t, part.GetMemory().GetPeers(), 1)
	require.Equal(t, []uint64{1}, part.GetMemory().GetPeers()[0].GetHave())
}

func TestReachableCDNsAreListed(t *testing.T) {
	client, _ := newClient(t)
	require.Eventually(t, func() bool { // connecting may take longer than the timeout of a ping
		list, err := client.ListReachable(t.Context(), &schedulerv1.ListReachableRequest{})
		return err == nil && slices.Equal(list.GetCdnIds(), []string{"c"})
	}, 20*time.Second, 10*time.Millisecond)
}

func TestInvalidRequestsAreRefused(t *testing.T) {
	client, _ := newClient(t)
	ctx := t.Context()
	peer := &schedulerv1.Peer{Id: "p"}
	src := &cdnv1.Source{Url: "http://127.0.0.1/"}
	for name, call := range map[string]func() error{
		"no task": func() error {
			_, err := client.RegisterPeer(ctx, &schedulerv1.RegisterPeerRequest{Peer: peer, Source: src})
			return err
		},
		"a task id that is a path": func() error {
			_, err := client.RegisterPeer(ctx, &schedulerv1.RegisterPeerRequest{TaskId: "../../etc/passwd", Peer: peer, Source: src})
			return err
		},
		"no peer": func() error {
			_, err := client.RegisterPeer(ctx, &schedulerv1.RegisterPeerRequest{TaskId: taskID, Source: src})
			return err
		},
		"a long peer id": func() error {
			_, err := client.PullPieces(ctx, &schedulerv1.PullPiecesRequest{TaskId: taskID, PeerId: strings.Repeat("p", 256)})
			return err
		},
		"a peer id that is a path": func() error {
			_, err := client.ReportPeerDown(ctx, &schedulerv1.ReportPeerDownRequest{TaskId: taskID, PeerId: "a/b"})
			return err
		},
		"no source": func() error {
			_, err := client.RegisterPeer(ctx, &schedulerv1.RegisterPeerRequest{TaskId: taskID, Peer: peer})
			return err
		},
		"no limit": func() error {
			_, err := client.ListPeers(ctx, &schedulerv1.ListPeersRequest{})
			return err
		},
		"too high a limit of ids": func() error {
			_, err := client.ListPeers(ctx, &schedulerv1.ListPeersRequest{Limit: 100_001, IdsOnly: true})
			return err
		},
		"a negative start": func() error {
			_, err := client.ListPeers(ctx, &schedulerv1.ListPeersRequest{Start: -1, Limit: 1})
			return err
		},
		"too high a limit": func() error {
			_, err := client.ListPeers(ctx, &schedulerv1.ListPeersRequest{Limit: math.MaxInt32})
			return err
		},
		"metrics without a peer": func() error {
			_, err := client.ReportMetrics(ctx, &schedulerv1.ReportMetricsRequest{TaskId: taskID})
			return err
		},
	} {
		err := call()
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%s: %v", name, err)
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(err), name)
	}
}

func TestPullIsUnavailableWhenTheRegistryDoesNotAnswer(t *testing.T) {
	client, _ := newClient(t)
	_, err := client.PullPieces(t.Context(), &schedulerv1.PullPiecesRequest{
		TaskId: taskID, PeerId: "p", Status: schedulerv1.PullStatus_PULL_STATUS_RUNNING,
	})
	require.Equal(t, codes.Unavailable, status.Code(err), "with NOT_FOUND the client would leave, although another scheduler may answer for the task")
}

func TestInvalidPiecesAreRefused(t *testing.T) {
	require.NoError(t, checkPiece(&schedulerv1.PieceRef{Num: 0, Size: 1}))
	for _, p := range []*schedulerv1.PieceRef{nil, {Num: -1, Size: 1}, {Num: 1}, {Size: -1}} {
		require.Error(t, checkPiece(p), "%v", p)
	}
}

func TestStatusAndResultAreConverted(t *testing.T) {
	for s, want := range map[schedulerv1.PullStatus]task.Stage{
		schedulerv1.PullStatus_PULL_STATUS_STARTED:  task.Started,
		schedulerv1.PullStatus_PULL_STATUS_RUNNING:  task.Running,
		schedulerv1.PullStatus_PULL_STATUS_FINISHED: task.Finished,
	} {
		got, err := stageFrom(s)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, s := range []schedulerv1.PullStatus{0, -1, 77} {
		_, err := stageFrom(s)
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(err))
	}
	for r, want := range map[schedulerv1.PieceResult]task.Outcome{
		schedulerv1.PieceResult_PIECE_RESULT_UNSPECIFIED:  task.NoReport,
		schedulerv1.PieceResult_PIECE_RESULT_SUCCESS:      task.Written,
		schedulerv1.PieceResult_PIECE_RESULT_SEMI_SUCCESS: task.SemiSuccess,
		schedulerv1.PieceResult_PIECE_RESULT_FAILED:       task.Failed,
	} {
		got, err := outcomeFrom(r)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := outcomeFrom(77)
	require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(err))
}

func TestAnswerIsAResultOffersOrAWait(t *testing.T) {
	finished := answerProto(task.Answer{Result: &swarm.Result{MD5: "m", Length: 7, PieceCount: 2}}).GetFinished()
	require.Equal(t, "m", finished.GetMd5())
	require.EqualValues(t, 7, finished.GetLength())
	require.EqualValues(t, 17, finished.GetWrappedLength())

	items := answerProto(task.Answer{PieceSize: 100, Offers: []swarm.Offer{
		{Num: 3, MD5: "x", Length: 12, SourceID: "cdnnode:127.0.0.1~t", IP: "127.0.0.1", Port: 8001, Path: "/p", FromCDN: true},
	}}).GetOffers().GetItems()
	require.Len(t, items, 1)
	require.EqualValues(t, 100, items[0].GetSize())
	require.EqualValues(t, 12, items[0].GetLength())
	require.Equal(t, "cdnnode:127.0.0.1~t", items[0].GetPeerId())

	require.NotNil(t, answerProto(task.Answer{}).GetWait())
}

func TestListingContainsNoCredentials(t *testing.T) {
	entry := entryProto(task.New(taskID, "https://user:secret@127.0.0.1/file?a=b", task.Deps{Log: zap.NewNop()}), swarm.Holding{}, swarm.Facts{})
	require.Equal(t, "https://127.0.0.1/file?a=b", entry.GetTaskUrl())
	require.Empty(t, withoutCredentials("http://user:secret@%zz/"))
}

func TestReportedDownloadsAreCounted(t *testing.T) {
	client, reg := newClient(t)
	for _, r := range []*schedulerv1.ReportMetricsRequest{
		{Success: true, Duration: durationpb.New(time.Second)},
		{Success: true, BackSourceReason: 3},
		{},
	} {
		r.TaskId, r.PeerId = taskID, "p"
		_, err := client.ReportMetrics(t.Context(), r)
		require.NoError(t, err)
	}
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP supernode_scheduler_downloads_total Downloads that peers reported as ended, by result and whether they went to the source.
# TYPE supernode_scheduler_downloads_total counter
supernode_scheduler_downloads_total{back_to_source="no",result="failure"} 1
supernode_scheduler_downloads_total{back_to_source="no",result="success"} 1
supernode_scheduler_downloads_total{back_to_source="yes",result="success"} 1
`), "supernode_scheduler_downloads_total"))
}

func TestWrongReportOfABatchDoesNotPreventTheOthers(t *testing.T) {
	client, _ := newClient(t)
	piece := &schedulerv1.PieceRef{Num: 1, Size: 4 << 20}
	resp, err := client.ReportPieces(t.Context(), &schedulerv1.ReportPiecesRequest{Reports: []*schedulerv1.ReportPieceRequest{
		{TaskId: "../x", PeerId: "p", Piece: piece}, {TaskId: taskID, PeerId: "p"}, {TaskId: taskID, PeerId: "p", Piece: piece},
	}})
	require.NoError(t, err)
	require.Equal(t, []int32{2}, resp.GetUnhandled(), "its task is not in memory")
	require.Len(t, resp.GetFailures(), 2)
	for i, f := range resp.GetFailures() {
		require.EqualValues(t, i, f.GetIndex())
		require.EqualValues(t, codes.InvalidArgument, f.GetCode())
		require.Equal(t, string(rpcerr.InvalidArgument), f.GetReason())
	}
	for _, n := range []int{0, maxReports + 1} {
		_, err = client.ReportPieces(t.Context(), &schedulerv1.ReportPiecesRequest{Reports: make([]*schedulerv1.ReportPieceRequest, n)})
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%d reports", n)
	}
}
