package rpcserver_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/rpcserver"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// cdn answers Stat in ways that a server has to cope with.
type cdn struct {
	cdnv1.UnimplementedCdnServiceServer
}

func (cdn) Stat(_ context.Context, req *cdnv1.StatRequest) (*cdnv1.StatResponse, error) {
	switch req.GetTaskId() {
	case "panic":
		panic("boom")
	case "missing":
		return nil, rpcerr.New(codes.NotFound, rpcerr.TaskNotFound, "no such task")
	case "internal":
		return nil, net.ErrClosed
	}
	return &cdnv1.StatResponse{PieceCount: 7}, nil
}

func serve(t *testing.T) (*rpcclient.Pool, string) {
	t.Helper()
	s, err := rpcserver.New(zap.NewNop(), prometheus.NewRegistry())
	require.NoError(t, err)
	cdnv1.RegisterCdnServiceServer(s, cdn{})
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx, l) }()
	pool := rpcclient.NewPool("self:1", s.Local())
	t.Cleanup(func() {
		require.NoError(t, pool.Close())
		cancel()
		require.NoError(t, <-ended)
	})
	return pool, l.Addr().String()
}

func TestSameAnswersOverTheSocketAndInProcess(t *testing.T) {
	pool, addr := serve(t)
	for _, endpoint := range []string{addr, "self:1"} {
		conn, err := pool.Dial(endpoint)
		require.NoError(t, err)
		client := cdnv1.NewCdnServiceClient(conn)
		got, err := client.Stat(t.Context(), &cdnv1.StatRequest{})
		require.NoError(t, err)
		require.EqualValues(t, 7, got.GetPieceCount())
		_, err = client.Stat(t.Context(), &cdnv1.StatRequest{TaskId: "missing"})
		require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
		for _, id := range []string{"panic", "internal"} {
			_, err = client.Stat(t.Context(), &cdnv1.StatRequest{TaskId: id})
			require.Equal(t, codes.Internal, status.Code(err), id)
		}
	}
}

func TestHealthAndReflectionAreThere(t *testing.T) {
	pool, addr := serve(t)
	conn, err := pool.Dial(addr)
	require.NoError(t, err)
	for _, service := range []string{"", cdnv1.CdnService_ServiceDesc.ServiceName} {
		h, err := healthv1.NewHealthClient(conn).Check(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		require.NoError(t, err)
		require.Equal(t, healthv1.HealthCheckResponse_SERVING, h.GetStatus())
	}
	stream, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	require.NoError(t, err)
	require.NoError(t, stream.Send(&reflectionv1.ServerReflectionRequest{
		MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{},
	}))
	answer, err := stream.Recv()
	require.NoError(t, err)
	require.Contains(t, answer.GetListServicesResponse().String(), cdnv1.CdnService_ServiceDesc.ServiceName)
	require.NoError(t, stream.CloseSend())
}

func TestAnyOfSeveralEndpointsAnswers(t *testing.T) {
	pool, addr := serve(t)
	dead, err := net.Listen("tcp4", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	conn, err := pool.DialAny([]string{dead.Addr().String(), addr})
	require.NoError(t, err)
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		_, err = cdnv1.NewCdnServiceClient(conn).Stat(ctx, &cdnv1.StatRequest{}, grpc.WaitForReady(true))
		cancel()
		require.NoError(t, err)
	}
	_, err = pool.DialAny(nil)
	require.Error(t, err)
}
