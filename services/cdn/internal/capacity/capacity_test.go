package capacity

import (
	"context"
	"io"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/pkg/window"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testTimeout = 20 * time.Second

type service struct {
	cdnv1.UnimplementedCdnServiceServer
	hub *Hub
}

func (s service) ShareCapacity(stream grpc.BidiStreamingServer[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse]) error {
	return s.hub.Share(stream)
}

// instance is a hub behind a gRPC server.
type instance struct {
	*Hub
	cdnv1.CdnServiceClient
	stop func()
	sent atomic.Int64
}

func start(t *testing.T) *instance {
	t.Helper()
	in := new(instance)
	in.Hub = New(func() (int64, int64) { return in.sent.Load(), 0 })
	endpoint, stop := rpctest.Serve(t, func(g *grpc.Server) { cdnv1.RegisterCdnServiceServer(g, service{hub: in.Hub}) })
	pool := rpcclient.NewPool("", nil)
	conn, err := pool.Dial(endpoint)
	require.NoError(t, err)
	in.CdnServiceClient = cdnv1.NewCdnServiceClient(conn)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		in.Run(ctx)
	}()
	in.stop = func() {
		cancel()
		<-ended
	}
	t.Cleanup(func() {
		in.stop()
		require.NoError(t, pool.Close())
		stop()
	})
	return in
}

type stream = grpc.BidiStreamingClient[cdnv1.ShareCapacityRequest, cdnv1.ShareCapacityResponse]

func (in *instance) open(t *testing.T) stream {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	s, err := in.ShareCapacity(ctx)
	require.NoError(t, err)
	return s
}

func request(id string, inFlight int32, limited bool) *cdnv1.ShareCapacityRequest {
	return &cdnv1.ShareCapacityRequest{SchedulerId: id, InFlight: inFlight, Limited: limited}
}

// join opens a stream, sends a first demand, and returns the window of the response.
func (in *instance) join(t *testing.T, id string, inFlight int32, limited bool) (stream, int32) {
	t.Helper()
	s := in.open(t)
	require.NoError(t, s.Send(request(id, inFlight, limited)))
	resp, err := s.Recv()
	require.NoError(t, err)
	return s, resp.GetWindow()
}

// await receives responses until one has the given window.
func await(t *testing.T, s stream, window int32) {
	t.Helper()
	for {
		resp, err := s.Recv()
		require.NoError(t, err, "waiting for the window %d", window)
		if resp.GetWindow() == window {
			return
		}
	}
}

// awaitError receives responses until the stream fails.
func awaitError(t *testing.T, s stream) codes.Code {
	t.Helper()
	for {
		if _, err := s.Recv(); err != nil {
			return status.Code(err)
		}
	}
}

func TestSchedulersShareTheWindowFairly(t *testing.T) {
	t.Parallel()
	in := start(t)
	a, alone := in.join(t, "a", 0, false)
	require.EqualValues(t, window.Initial, alone, "it is the only scheduler")
	b, _ := in.join(t, "b", 3, true)
	require.NoError(t, a.Send(request("a", 3, true)))
	await(t, a, window.Initial/2)
	await(t, b, window.Initial/2)
	require.NoError(t, b.Send(request("b", 0, false)))
	await(t, a, window.Initial-1)
	require.NoError(t, b.CloseSend())
	await(t, a, window.Initial)
	_, err := b.Recv()
	for err == nil {
		_, err = b.Recv()
	}
	require.ErrorIs(t, err, io.EOF)
}

func TestSilentSchedulerHasAPartOfOneUntilItReportsAgain(t *testing.T) {
	t.Parallel()
	in := start(t)
	b, _ := in.join(t, "b", 6, true) // sends nothing more
	a, _ := in.join(t, "a", 6, true)
	sending, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(interval)
		defer tick.Stop()
		for sending.Err() == nil {
			<-tick.C
			_ = a.Send(request("a", 6, true)) // await fails if the stream does
		}
	}()
	await(t, a, window.Initial)
	await(t, b, 1)
	require.NoError(t, b.Send(request("b", 6, true)))
	await(t, b, window.Initial/2)
	cancel()
	<-done
}

func TestInvalidNumbersOfASchedulerDoNotReduceThePartsOfOthers(t *testing.T) {
	t.Parallel()
	in := start(t)
	faulty, _ := in.join(t, "faulty", -1<<31, true)
	a, part := in.join(t, "a", 3, true)
	require.EqualValues(t, window.Initial/2, part)
	require.NoError(t, faulty.Send(request("faulty", 1<<31-1, true)))
	b, _ := in.join(t, "b", 0, true)
	await(t, b, window.Initial/3)
	require.NoError(t, a.Send(request("a", 1, true)))
	in.mu.Lock()
	defer in.mu.Unlock()
	require.LessOrEqual(t, in.inFlight(time.Now(), true), window.Initial)
}

func TestRequestWithAnInvalidOrChangedSchedulerIDEndsTheStream(t *testing.T) {
	t.Parallel()
	in := start(t)
	for _, id := range []string{"", strings.Repeat("x", maxID+1)} {
		s := in.open(t)
		require.NoError(t, s.Send(request(id, 0, false)))
		require.Equal(t, codes.InvalidArgument, awaitError(t, s))
	}
	s, _ := in.join(t, "a", 0, false)
	require.NoError(t, s.Send(request("other", 0, false)))
	require.Equal(t, codes.InvalidArgument, awaitError(t, s))
}

func TestNewerStreamOfASchedulerReplacesTheOlder(t *testing.T) {
	t.Parallel()
	in := start(t)
	older, _ := in.join(t, "a", 5, true)
	newer, part := in.join(t, "a", 0, true)
	require.Equal(t, codes.Aborted, awaitError(t, older))
	require.EqualValues(t, window.Initial, part, "it counts as one scheduler")
	require.NoError(t, newer.Send(request("a", 1, true)))
	_, err := newer.Recv()
	require.NoError(t, err)
}

func TestNumberOfSchedulersIsBounded(t *testing.T) {
	t.Parallel()
	h := New(func() (int64, int64) { return 0, 0 })
	for i := range maxSchedulers {
		_, err := h.join(strconv.Itoa(i))
		require.NoError(t, err)
	}
	_, err := h.join("one more")
	require.Error(t, err)
	_, err = h.join("0")
	require.NoError(t, err, "a scheduler that has a stream already")
}

func TestStreamsEndWhenTheHubEnds(t *testing.T) {
	t.Parallel()
	in := start(t)
	s, _ := in.join(t, "a", 0, false)
	idle := in.open(t) // has sent nothing
	require.NoError(t, s.Send(request("a", 1, false)))
	in.stop()
	require.Equal(t, codes.Unavailable, awaitError(t, s))
	require.Equal(t, codes.Unavailable, awaitError(t, idle))
	require.Equal(t, codes.Unavailable, awaitError(t, in.open(t)))
}

func TestWindowGrowsWithTheRateAndIsAMetric(t *testing.T) {
	t.Parallel()
	now := time.Unix(1, 0)
	var bytes, ended int64
	h := New(func() (int64, int64) { return bytes, ended })
	metrics := prometheus.NewPedanticRegistry()
	for _, c := range h.Collectors() {
		require.NoError(t, metrics.Register(c))
	}
	s, err := h.join("a")
	require.NoError(t, err)
	const flow = 1 << 20
	for range 600 { // a minute on a link that 100 flows fill
		k := min(s.window, 100)
		h.update(s, request("a", int32(s.window), true), now)
		bytes += int64(k) * flow / 10
		ended = bytes / flow
		now = now.Add(interval)
		h.sample(now)
	}
	require.GreaterOrEqual(t, s.window, 90)
	require.LessOrEqual(t, s.window, 400)
	require.InDelta(t, min(s.window, 100)*flow, h.response(s).GetDeliveryRate(), 10*flow)
	require.NoError(t, testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP supernode_cdn_transfer_window Transfers that all schedulers together may have in flight from this CDN.
# TYPE supernode_cdn_transfer_window gauge
supernode_cdn_transfer_window `+strconv.Itoa(h.control.Window())+`
`), "supernode_cdn_transfer_window"))
	n, err := testutil.GatherAndCount(metrics)
	require.NoError(t, err)
	require.Equal(t, 4, n)
}
