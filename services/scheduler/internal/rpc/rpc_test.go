package rpc

import (
	"context"
	"math"
	"net"
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
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/claim"
	"github.com/supernode-ha/supernode/services/scheduler/internal/mirror"
	"github.com/supernode-ha/supernode/services/scheduler/internal/seed"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/table"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var taskID = strings.Repeat("0a", 32)

// dial serves a table without tasks, whose registry answers nothing.
func dial(t *testing.T) (schedulerv1.SchedulerServiceClient, *prometheus.Registry) {
	t.Helper()
	pipe := bufconn.Listen(64 << 10)
	conn, err := grpc.NewClient("passthrough:///pipe", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return pipe.DialContext(ctx) }))
	require.NoError(t, err)
	reg := prometheus.NewRegistry()
	book, err := mirror.NewBook(reg)
	require.NoError(t, err)
	tasks := table.New(t.Context(), table.Config{}, table.Deps{
		Log: zap.NewNop(), Book: book, Mirror: &mirror.Sender{}, Follower: &seed.Follower{Claims: claim.New(claim.Deps{
			SelfID: "me", Registry: registryv1.NewRegistryServiceClient(conn), Log: zap.NewNop(),
		})},
	})
	s, err := New(tasks, book, nil, reg)
	require.NoError(t, err)
	server := grpc.NewServer(grpc.UnaryInterceptor(
		func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			resp, err := next(ctx, req)
			return resp, rpcerr.Status(err).Err()
		}))
	schedulerv1.RegisterSchedulerServiceServer(server, s)
	done := make(chan error, 1)
	go func() { done <- server.Serve(pipe) }()
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		server.Stop()
		require.NoError(t, <-done)
	})
	return schedulerv1.NewSchedulerServiceClient(conn), reg
}

func TestWhatCannotSucceedIsRefusedAtOnce(t *testing.T) {
	client, _ := dial(t)
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
		"too high a limit": func() error {
			_, err := client.ListPeers(ctx, &schedulerv1.ListPeersRequest{Limit: math.MaxInt32})
			return err
		},
		"metrics of nobody": func() error {
			_, err := client.ReportMetrics(ctx, &schedulerv1.ReportMetricsRequest{TaskId: taskID})
			return err
		},
	} {
		err := call()
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%s: %v", name, err)
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(err), name)
	}
}

func TestTaskThatNobodyCanSayWhoseItIsMayStillBeAnothers(t *testing.T) {
	client, _ := dial(t)
	_, err := client.PullPieces(t.Context(), &schedulerv1.PullPiecesRequest{
		TaskId: taskID, PeerId: "p", Status: schedulerv1.PullStatus_PULL_STATUS_RUNNING,
	})
	require.Equal(t, codes.Unavailable, status.Code(err), "NOT_FOUND would make the client leave")
}

func TestPiecesOnTheWire(t *testing.T) {
	require.NoError(t, checkPiece(&schedulerv1.PieceRef{Num: 0, Size: 1}))
	for _, p := range []*schedulerv1.PieceRef{nil, {Num: -1, Size: 1}, {Num: 1}, {Size: -1}} {
		require.Error(t, checkPiece(p), "%v", p)
	}
}

func TestStagesAndOutcomes(t *testing.T) {
	for s, want := range map[schedulerv1.PullStatus]task.Stage{
		schedulerv1.PullStatus_PULL_STATUS_STARTED:  task.Started,
		schedulerv1.PullStatus_PULL_STATUS_RUNNING:  task.Running,
		schedulerv1.PullStatus_PULL_STATUS_FINISHED: task.Finished,
	} {
		got, err := stage(s)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	for _, s := range []schedulerv1.PullStatus{0, -1, 77} {
		_, err := stage(s)
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(err))
	}
	for r, want := range map[schedulerv1.PieceResult]task.Outcome{
		schedulerv1.PieceResult_PIECE_RESULT_UNSPECIFIED:  task.Nothing,
		schedulerv1.PieceResult_PIECE_RESULT_SUCCESS:      task.Written,
		schedulerv1.PieceResult_PIECE_RESULT_SEMI_SUCCESS: task.Receiving,
		schedulerv1.PieceResult_PIECE_RESULT_FAILED:       task.Failed,
	} {
		got, err := outcome(r)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := outcome(77)
	require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(err))
}

func TestAnswersAreOneOfThree(t *testing.T) {
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

func TestListingTellsNoPasswords(t *testing.T) {
	entry := entryProto(task.New(taskID, "https://user:secret@127.0.0.1/file?a=b", task.Deps{Log: zap.NewNop()}), swarm.Holding{}, swarm.Facts{})
	require.Equal(t, "https://127.0.0.1/file?a=b", entry.GetTaskUrl())
	require.Empty(t, public("http://user:secret@%zz/"))
}

func TestDownloadsAreCounted(t *testing.T) {
	client, reg := dial(t)
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
