package replication

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpctest"
	"github.com/supernode-ha/supernode/services/scheduler/internal/ids"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// longID returns the i-th of many peer ids of the greatest length.
func longID(i int) string { return fmt.Sprintf("%0255d", i) }

// longPeer returns a peer with the longest names that a gateway accepts.
func longPeer(t *testing.T, i int) swarm.PeerUpdate {
	t.Helper()
	require.NoError(t, ids.Check(idOf(1), longID(i)))
	require.Error(t, ids.Check(idOf(1), longID(i)+"x"))
	return swarm.PeerUpdate{
		PeerInfo: swarm.PeerInfo{
			ID: longID(i), IP: "255.255.255.255", Port: 65000, Path: "/" + strings.Repeat("p", 4095),
			HostName: strings.Repeat("h", 1024), Version: strings.Repeat("v", 1024),
		},
		Have: []uint64{1<<63 | uint64(i), 3}, Serves: []uint64{1}, Writing: []uint64{0, 2},
	}
}

// longUpdate returns the complete state of a task of which everything is long.
func longUpdate(t *testing.T, peers int) swarm.Update {
	t.Helper()
	u := swarm.Update{
		Full:   true,
		Facts:  &swarm.Facts{Length: 1 << 40, PieceSize: 15 << 20, ETag: strings.Repeat("e", 1000)},
		Result: &swarm.Result{MD5: strings.Repeat("a", 32), Length: 1 << 40, PieceCount: 20_000},
	}
	for i := range peers {
		u.Peers = append(u.Peers, longPeer(t, i))
		u.Outdated = append(u.Outdated, longID(1_000_000+i))
	}
	for num := range int32(20_000) {
		u.Pieces = append(u.Pieces, swarm.PieceUpdate{Num: num, MD5: fmt.Sprintf("%032x", num), Length: 15 << 20})
	}
	return u
}

// largeSource returns a source of about the size of the largest request that a gateway
// accepts.
func largeSource() *cdnv1.Source {
	return &cdnv1.Source{Url: "http://source/f", Headers: slices.Repeat([]string{"Name: " + strings.Repeat("v", 10_000)}, 100)}
}

// scriptedTask returns the given changes once each, then none.
type scriptedTask struct{ updates chan swarm.Update }

func (s scriptedTask) Changes(_ context.Context, full bool) (swarm.Update, error) {
	select {
	case u := <-s.updates:
		return u, nil
	default:
		return swarm.Update{Full: full, Facts: &swarm.Facts{}}, nil
	}
}

// flushAll waits until the standbys have confirmed large updates.
func flushAll(t *testing.T, r *Replicator) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*testTimeout)
	defer cancel()
	require.NoError(t, r.Flush(ctx))
}

// maxReceived is the size from which on a gRPC server refuses a message by default.
const maxReceived = 4 << 20

func TestStateWithTheLongestNamesIsReplicatedInSmallMessages(t *testing.T) {
	t.Parallel()
	const peers = 10_000
	b := newStandby(t, "b", "127.0.0.1:0")
	r, _ := newTestReplicator(t, b.Member)
	all := longUpdate(t, peers)
	source := largeSource()
	m := scriptedTask{make(chan swarm.Update, 2)}
	m.updates <- all
	r.Add(idOf(1), "http://source/f", source, m)
	flushAll(t, r)
	state, _ := b.store.Get(idOf(1))
	require.Equal(t, all, sorted(state.Update))
	require.True(t, proto.Equal(source, state.Source))
	b.mu.Lock()
	require.Less(t, b.largest, 2*maxMessageBytes, "the source is not split")
	require.Equal(t, 1, b.streams)
	b.largest = 0
	b.mu.Unlock()

	changes := swarm.Update{Facts: all.Facts}
	for i := range peers - 1 {
		changes.Removed = append(changes.Removed, longID(i))
	}
	m.updates <- changes
	r.MarkChanged(idOf(1))
	flushAll(t, r)
	state, _ = b.store.Get(idOf(1))
	require.Equal(t, all.Peers[peers-1:], state.Update.Peers)
	b.mu.Lock()
	defer b.mu.Unlock()
	require.LessOrEqual(t, b.largest, maxMessageBytes)
	require.Equal(t, 1, b.streams)
}

func TestSmallTasksShareMessages(t *testing.T) {
	t.Parallel()
	const tasks = 40
	b := newStandby(t, "b", "127.0.0.1:0")
	r, _ := newTestReplicator(t, b.Member)
	for i := range tasks {
		m := scriptedTask{make(chan swarm.Update, 1)}
		u := swarm.Update{Full: true, Facts: &swarm.Facts{}}
		for n := range 50 { // 320 KB
			u.Peers = append(u.Peers, longPeer(t, n))
		}
		m.updates <- u
		r.Add(idOf(i), "u", nil, m)
	}
	flushAll(t, r)
	for i := range tasks {
		b.requireReplicated(t, idOf(i), 50)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	require.LessOrEqual(t, b.largest, maxMessageBytes)
	require.Greater(t, b.largest, maxMessageBytes/2)
}

func TestSizeOfAPartIsItsEncodedSize(t *testing.T) {
	for name, u := range map[string]swarm.Update{
		"nothing": {},
		"all":     longUpdate(t, 500),
		"changes": {Removed: []string{"a", longID(1)}, Peers: []swarm.PeerUpdate{
			{PeerInfo: swarm.PeerInfo{ID: "p"}, Partial: true, Left: true, Words: slices.Repeat([]swarm.WordUpdate{{Index: swarm.MaxWords - 1, Have: 1 << 63, Serves: 1, Writing: 1}}, swarm.MaxWords)},
		}},
	} {
		for i, p := range splitUpdate(idOf(1), header{"http://source/f", &cdnv1.Source{Url: "http://source/f"}}, u) {
			require.Equal(t, proto.Size(p.TaskMemory), p.size, name)
			require.LessOrEqual(t, p.size, maxPartBytes)
			require.Equal(t, idOf(1), p.GetTaskId())
			require.Equal(t, i == 0 && u.Full, p.GetAnew(), "the other parts add to the first one")
			require.Equal(t, i == 0 && u.Full, p.GetTaskUrl() != "")
		}
	}
}

// recalling is a standby that sends a task back.
type recalling struct {
	schedulerv1.UnimplementedSchedulerServiceServer
	store *StandbyStore
}

func (s recalling) Recall(req *schedulerv1.RecallRequest, stream schedulerv1.SchedulerService_RecallServer) error {
	for _, p := range s.store.Parts(req.GetTaskId()) {
		if err := stream.Send(&schedulerv1.RecallResponse{Memory: p}); err != nil {
			return err
		}
	}
	return nil
}

func TestRecalledStateIsSentInSmallMessages(t *testing.T) {
	t.Parallel()
	const peers = 2000
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	all := longUpdate(t, peers)
	for _, p := range splitUpdate(idOf(1), header{"http://source/f", largeSource()}, all) {
		store.Apply("stream", &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{p.TaskMemory}}, start)
	}
	endpoint, _ := rpctest.Serve(t, func(g *grpc.Server) { schedulerv1.RegisterSchedulerServiceServer(g, recalling{store: store}) })
	pool := rpcclient.NewPool("", nil)
	defer func() { require.NoError(t, pool.Close()) }()
	conn, err := pool.Dial(endpoint)
	require.NoError(t, err)
	// A client refuses the same size as a server by default.
	stream, err := schedulerv1.NewSchedulerServiceClient(conn).Recall(t.Context(), &schedulerv1.RecallRequest{TaskId: idOf(1)})
	require.NoError(t, err)
	received := 0
	for received < peers {
		resp, err := stream.Recv()
		require.NoError(t, err)
		require.Less(t, proto.Size(resp), maxReceived/2)
		received += len(resp.GetMemory().GetPeers())
	}
}
