package reportbatch_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway/internal/reportbatch"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scheduler is a scheduler that notes the reports that it gets.
type scheduler struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	batches func(context.Context, *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error)

	mu      sync.Mutex // guards what follows
	sizes   []int      // of the batches
	singles []string   // peers of reports that came alone
}

func (s *scheduler) ReportPieces(ctx context.Context, req *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
	s.mu.Lock()
	s.sizes = append(s.sizes, len(req.GetReports()))
	s.mu.Unlock()
	return s.batches(ctx, req)
}

func (s *scheduler) ReportPiece(_ context.Context, req *schedulerv1.ReportPieceRequest) (*schedulerv1.ReportPieceResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.singles = append(s.singles, req.GetPeerId())
	return &schedulerv1.ReportPieceResponse{}, nil
}

// start runs a scheduler and returns a batcher and a client that goes through it.
func start(t *testing.T, s schedulerv1.SchedulerServiceServer) (*reportbatch.Batcher, schedulerv1.SchedulerServiceClient) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	server := grpc.NewServer()
	schedulerv1.RegisterSchedulerServiceServer(server, s)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	b, err := reportbatch.New(func(string) (grpc.ClientConnInterface, error) { return conn, nil })
	require.NoError(t, err)
	t.Cleanup(func() {
		b.Close()
		require.NoError(t, conn.Close())
		server.Stop()
		require.NoError(t, <-served)
	})
	decorated, err := b.Dial(l.Addr().String())
	require.NoError(t, err)
	return b, schedulerv1.NewSchedulerServiceClient(decorated)
}

// reportAll makes n reports at once and returns their errors by number.
func reportAll(ctx context.Context, client schedulerv1.SchedulerServiceClient, n int) []error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			_, errs[i] = client.ReportPiece(ctx, &schedulerv1.ReportPieceRequest{TaskId: "t", PeerId: fmt.Sprint(i)})
		})
	}
	all.Wait()
	return errs
}

func applied(context.Context, *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
	return &schedulerv1.ReportPiecesResponse{}, nil
}

func TestReportsThatComeWhileOneIsSentAreOneBatch(t *testing.T) {
	const reports = 400
	release, began := make(chan struct{}), make(chan struct{}, reports)
	s := &scheduler{batches: func(ctx context.Context, req *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
		began <- struct{}{}
		<-release
		return applied(ctx, req)
	}}
	_, client := start(t, s)
	first := make(chan []error, 1)
	go func() { first <- reportAll(t.Context(), client, 1) }()
	<-began
	rest := make(chan []error, 1)
	go func() { rest <- reportAll(t.Context(), client, reports) }()
	release <- struct{}{}
	require.NoError(t, (<-first)[0])
	close(release)
	for i, err := range <-rest {
		require.NoError(t, err, "report %d", i)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := 0
	for _, n := range s.sizes {
		sum += n
	}
	require.Equal(t, 1+reports, sum, "each report is sent once")
	require.Less(t, len(s.sizes), reports/4)
	require.Empty(t, s.singles)
}

func TestEachReportGetsItsOwnResult(t *testing.T) {
	s := &scheduler{batches: func(_ context.Context, req *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
		resp := &schedulerv1.ReportPiecesResponse{Unhandled: []int32{-1, 9999}, Failures: []*schedulerv1.ReportFailure{{Index: 9999}, {Index: -1}}}
		for i, r := range req.GetReports() {
			switch r.GetPeerId() {
			case "0":
				resp.Unhandled = append(resp.Unhandled, int32(i))
			case "1":
				resp.Failures = append(resp.Failures, &schedulerv1.ReportFailure{
					Index: int32(i), Code: int32(codes.FailedPrecondition), Reason: string(rpcerr.NotOwner), Text: "another", Metadata: map[string]string{"endpoint": "e:1"},
				})
			}
		}
		return resp, nil
	}}
	_, client := start(t, s)
	errs := reportAll(t.Context(), client, 20)
	for i, err := range errs {
		if i != 1 {
			require.NoError(t, err, "report %d", i)
		}
	}
	e := rpcerr.From(errs[1])
	require.Equal(t, rpcerr.NotOwner, e.Reason)
	require.Equal(t, codes.FailedPrecondition, e.Code)
	require.Equal(t, "e:1", e.Metadata["endpoint"])
	require.Equal(t, []string{"0"}, s.singles, "what a batch does not handle is sent alone")
}

// older is a scheduler of a version without ReportPieces.
type older struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	scheduler
}

func (o *older) ReportPiece(ctx context.Context, req *schedulerv1.ReportPieceRequest) (*schedulerv1.ReportPieceResponse, error) {
	return o.scheduler.ReportPiece(ctx, req)
}

func (o *older) ReportPieces(ctx context.Context, req *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
	return o.UnimplementedSchedulerServiceServer.ReportPieces(ctx, req)
}

func TestSchedulerWithoutBatchesGetsSingleReports(t *testing.T) {
	s := &older{}
	_, client := start(t, s)
	for _, err := range reportAll(t.Context(), client, 20) {
		require.NoError(t, err)
	}
	require.Len(t, s.singles, 20)
}

func TestReportEndsWithItsCallerThoughTheSchedulerHangs(t *testing.T) {
	s := &scheduler{batches: func(ctx context.Context, _ *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	_, client := start(t, s)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, err := range reportAll(ctx, client, 20) {
		require.Equal(t, codes.DeadlineExceeded, status.Code(err))
	}
}

func TestErrorOfABatchIsThatOfItsReports(t *testing.T) {
	s := &scheduler{batches: func(context.Context, *schedulerv1.ReportPiecesRequest) (*schedulerv1.ReportPiecesResponse, error) {
		return nil, status.Error(codes.Unavailable, "stopping")
	}}
	b, client := start(t, s)
	for _, err := range reportAll(t.Context(), client, 20) {
		require.Equal(t, codes.Unavailable, status.Code(err))
	}
	b.Close()
	for _, err := range reportAll(t.Context(), client, 3) {
		require.NoError(t, err)
	}
	require.Len(t, s.singles, 3, "after the end reports are sent one by one")
}
