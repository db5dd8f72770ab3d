package cdn_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/services/cdn"
)

const testTimeout = 20 * time.Second

// node is a CDN instance with real listeners, and its registry.
type node struct {
	cdnv1.CdnServiceClient
	home     string
	download string // host:port
	metrics  *prometheus.Registry
	records  *records
	stop     func()
	isMember func(cdn string) bool // with a fakeRegistry: whether the node has this member in its list
}

// records is a registry that records the updates of tasks.
type records struct {
	registryv1.UnimplementedRegistryServiceServer
	mu      sync.Mutex
	updates []*registryv1.UpdateTaskRequest // guarded by mu
	refusal error                           // guarded by mu
}

func (r *records) UpdateTask(_ context.Context, req *registryv1.UpdateTaskRequest) (*registryv1.UpdateTaskResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.updates = append(r.updates, req)
	if r.refusal != nil {
		return nil, r.refusal
	}
	return &registryv1.UpdateTaskResponse{}, nil
}

func (r *records) setError(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.refusal = err
}

func (r *records) of(id string) []*registryv1.UpdateTaskRequest {
	r.mu.Lock()
	defer r.mu.Unlock()
	var found []*registryv1.UpdateTaskRequest
	for _, u := range r.updates {
		if u.GetTaskId() == id {
			found = append(found, u)
		}
	}
	return found
}

// start runs an instance until the test ends or stop is called.
func start(t testing.TB, cfg cdn.Config) *node {
	t.Helper()
	if cfg.HomeDir == "" {
		cfg.HomeDir = t.TempDir()
	}
	cfg.ID = "cdn-1"
	if cfg.RetryDelay == 0 {
		cfg.RetryDelay = time.Millisecond
	}
	if cfg.DrainTimeout == 0 {
		cfg.DrainTimeout = 50 * time.Millisecond // so that tests do not wait for the drain
	}
	n := &node{home: cfg.HomeDir, metrics: prometheus.NewRegistry(), records: new(records)}
	registryConn, stopRegistry := serve(t, func(s grpc.ServiceRegistrar) { registryv1.RegisterRegistryServiceServer(s, n.records) })
	listener := listen(t)
	n.download = listener.Addr().String()
	service, err := cdn.New(cfg, cdn.Deps{
		Logger: zaptest.NewLogger(t, zaptest.Level(levelOf(t))), Metrics: n.metrics,
		Registry: registryv1.NewRegistryServiceClient(registryConn), Download: listener,
	})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	conn, stopServer := serve(t, service.Register)
	n.CdnServiceClient = cdnv1.NewCdnServiceClient(conn)
	n.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-ended)
		stopServer()
		stopRegistry()
	})
	t.Cleanup(n.stop)
	return n
}

func listen(t testing.TB) net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// serve runs a gRPC server and returns a connection to it, and a function to stop it.
func serve(t testing.TB, register func(grpc.ServiceRegistrar)) (*grpc.ClientConn, func()) {
	t.Helper()
	l := listen(t)
	server := grpc.NewServer()
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	return conn, func() {
		require.NoError(t, conn.Close())
		server.Stop()
		require.NoError(t, <-done)
	}
}

// received holds the events of a Seed stream.
type received struct {
	facts  *cdnv1.SourceFacts
	pieces []*cdnv1.Piece
	result *cdnv1.SeedResult
}

func (n *node) startDefaultSeed(t testing.TB, id string, src *cdnv1.Source) grpc.ServerStreamingClient[cdnv1.SeedResponse] {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	stream, err := n.Seed(ctx, &cdnv1.SeedRequest{TaskId: id, Source: src, Epoch: 7})
	require.NoError(t, err)
	return stream
}

// seed seeds a task and receives its events until the end of the stream.
func (n *node) seed(t testing.TB, id string, src *cdnv1.Source) (received, error) {
	t.Helper()
	return receiveAll(n.startDefaultSeed(t, id, src))
}

// receiveAll receives the events of a stream until its end. It returns an error if they are
// not in order.
func receiveAll(stream grpc.ServerStreamingClient[cdnv1.SeedResponse]) (received, error) {
	var got received
	for {
		event, err := stream.Recv()
		switch {
		case errors.Is(err, io.EOF) && got.result == nil:
			return got, errors.New("the stream ended without a result")
		case errors.Is(err, io.EOF):
			return got, nil
		case err != nil:
			return got, err
		case got.result != nil:
			return got, errors.New("something came after the result")
		}
		switch e := event.GetEvent().(type) {
		case *cdnv1.SeedResponse_Facts:
			if got.facts != nil {
				return got, errors.New("facts came twice")
			}
			got.facts = e.Facts
		case *cdnv1.SeedResponse_Piece:
			if got.facts == nil {
				return got, errors.New("a piece came before the facts")
			}
			got.pieces = append(got.pieces, e.Piece)
		case *cdnv1.SeedResponse_Result:
			got.result = e.Result
		}
	}
}

// mustSeed seeds a task, downloads all pieces from the download port as a peer does, and
// compares them with the content.
func (n *node) mustSeed(t testing.TB, id string, src *cdnv1.Source, content []byte) received {
	t.Helper()
	got, err := n.seed(t, id, src)
	require.NoError(t, err)
	n.check(t, id, got, content)
	return got
}

func (n *node) check(t testing.TB, id string, got received, content []byte) {
	t.Helper()
	size := got.facts.GetPieceSize()
	require.Equal(t, sum(content), got.result.GetMd5())
	require.EqualValues(t, len(content), got.result.GetLength())
	require.Equal(t, piece.Count(int64(len(content)), size), got.result.GetPieceCount())
	require.Len(t, got.pieces, int(got.result.GetPieceCount()))
	parts := make(map[int32][]byte)
	for _, p := range got.pieces {
		status, wrapped := n.get(t, path(id), "bytes="+piece.Range(p.GetNum(), size))
		require.Equal(t, http.StatusPartialContent, status)
		require.Equal(t, p.GetMd5(), sum(wrapped))
		require.Len(t, wrapped, int(p.GetLength()))
		part, err := piece.Unwrap(wrapped, size)
		require.NoError(t, err)
		parts[p.GetNum()] = part
	}
	var whole bytes.Buffer
	for num := range got.result.GetPieceCount() {
		whole.Write(parts[num])
	}
	require.True(t, bytes.Equal(content, whole.Bytes()))
}

func path(id string) string { return "/download/" + id[:3] + "/" + id }

// get makes a request to the download port.
func (n *node) get(t testing.TB, path, ranges string) (int, []byte) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+n.download+path, nil)
	require.NoError(t, err)
	if ranges != "" {
		req.Header.Set("Range", ranges)
	}
	req.Close = true
	res, err := http.DefaultTransport.RoundTrip(req)
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	return res.StatusCode, body
}

// counter returns the value of a metric, or the sum over all labels if none is given.
func (n *node) counter(t testing.TB, name string, labels ...string) float64 {
	t.Helper()
	families, err := n.metrics.Gather()
	require.NoError(t, err)
	var value float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			if len(labels) == 0 || len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == labels[0] {
				value += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return value
}

func sum(b []byte) string {
	s := md5.Sum(b)
	return hex.EncodeToString(s[:])
}

func sha1Of(s string) string {
	h := sha1.Sum([]byte(s))
	return hex.EncodeToString(h[:])
}

// idOf returns a task id.
func idOf(name string) string { return taskid.Compute(name, "", "", nil) }

// randomContent returns random content, which is the same for each call with a length.
func randomContent(length int) []byte {
	b := make([]byte, length)
	_, _ = rand.NewChaCha8([32]byte{byte(length)}).Read(b) // cannot fail
	return b
}

func requireReason(t testing.TB, err error, reason rpcerr.Reason) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, reason, rpcerr.ReasonOf(err), fmt.Sprint(err))
}

func eventually(t testing.TB, what func() bool) {
	t.Helper()
	require.Eventually(t, what, testTimeout, 5*time.Millisecond)
}

func statusesOf(updates []*registryv1.UpdateTaskRequest) string {
	var names []string
	for _, u := range updates {
		names = append(names, strings.TrimPrefix(u.GetStatus().String(), "TASK_STATUS_"))
	}
	return strings.Join(names, " ")
}

func contextOf(t testing.TB) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), testTimeout)
	t.Cleanup(cancel)
	return ctx, cancel
}

// awaitFetch waits until one fetch is counted, which happens after its listeners have
// received the result.
func (n *node) awaitFetch(t testing.TB, result string) {
	t.Helper()
	eventually(t, func() bool { return n.counter(t, "supernode_cdn_fetches_total", result) == 1 })
}
