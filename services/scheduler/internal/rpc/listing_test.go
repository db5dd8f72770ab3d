package rpc

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

const pieceSize = 1 << 20

// newTask starts a task with peers that serve as many pieces as the map says.
func newTask(t *testing.T, id string, peers map[string]int) *task.Task {
	t.Helper()
	stats, err := task.NewStats(prometheus.NewRegistry())
	require.NoError(t, err)
	created := task.New(id, "http://source/"+id, task.Deps{
		Log: zap.NewNop(), Limits: swarm.Limits{Up: 4, Down: 4}, Capacity: capacity.NewShares(), Stats: stats,
	})
	ctx, cancel := context.WithCancel(context.Background())
	var work sync.WaitGroup
	work.Go(func() { created.Run(ctx) })
	t.Cleanup(func() { cancel(); work.Wait() })
	require.NoError(t, created.Attach(ctx, swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", Owner: true}))
	require.NoError(t, created.Facts(ctx, "cdn", swarm.Facts{Length: 10 * (pieceSize - 5), PieceSize: pieceSize}))
	for num := range int32(10) {
		require.NoError(t, created.Landed(ctx, "cdn", num, fmt.Sprintf("%032x", num), pieceSize))
	}
	for peer, pieces := range peers {
		_, err := created.Register(ctx, swarm.PeerInfo{ID: peer, IP: "127.0.1.1", Port: 20000, Path: "/p"})
		require.NoError(t, err)
		for num := range int32(pieces) {
			require.NoError(t, created.Written(ctx, peer, num, pieceSize))
		}
	}
	return created
}

// listed returns the entries of an answer as "peer/task:number of pieces".
func listed(out *schedulerv1.ListPeersResponse) (list []string) {
	for _, e := range out.GetEntries() {
		list = append(list, fmt.Sprintf("%s/%s:%d", e.GetPeer().GetId(), e.GetTaskId(), len(e.GetPieces())))
	}
	return list
}

func TestListingHasPages(t *testing.T) {
	tasks := []*task.Task{
		newTask(t, "t2", map[string]int{"a": 1, "c": 2, "idle": 0}),
		newTask(t, "t1", map[string]int{"a": 3, "b": 4}),
	}
	list := func(req *schedulerv1.ListPeersRequest) []string {
		t.Helper()
		out, err := listPeers(t.Context(), tasks, req, 1000)
		require.NoError(t, err)
		require.False(t, out.GetTruncated())
		return listed(out)
	}
	all := []string{"a/t1:3", "a/t2:1", "b/t1:4", "c/t2:2"}
	require.Equal(t, all, list(&schedulerv1.ListPeersRequest{Limit: 10}))
	for start := range all {
		for limit := 1; start+limit <= len(all); limit++ {
			require.Equal(t, all[start:start+limit], list(&schedulerv1.ListPeersRequest{Start: int32(start), Limit: int32(limit)}))
		}
	}
	require.Empty(t, list(&schedulerv1.ListPeersRequest{Start: 4, Limit: 1}))
	require.Empty(t, list(&schedulerv1.ListPeersRequest{Start: 1 << 30, Limit: 10_000}))
	require.Equal(t, []string{"b/t1:4"}, list(&schedulerv1.ListPeersRequest{Start: 1, Limit: 5, Urls: []string{"http://source/t1"}}))
	require.Equal(t, []string{"a/t2:0", "b/t1:0"}, list(&schedulerv1.ListPeersRequest{Start: 1, Limit: 2, IdsOnly: true}))
	require.Len(t, list(&schedulerv1.ListPeersRequest{Limit: 100_000, IdsOnly: true}), 4)
}

func TestListingIsTruncatedWhenItHasTooManyPieces(t *testing.T) {
	tasks := []*task.Task{
		newTask(t, "t1", map[string]int{"a": 3, "b": 10, "c": 2, "e": 1}),
		newTask(t, "t2", map[string]int{"d": 2}),
	}
	for _, c := range []struct {
		start     int32
		maxPieces int
		want      []string
		truncated bool
	}{
		{0, 16, []string{"a/t1:3", "b/t1:10", "c/t1:2"}, true},
		{0, 15, []string{"a/t1:3", "b/t1:10", "c/t1:2"}, true},
		{0, 14, []string{"a/t1:3", "b/t1:10"}, true},
		{1, 5, []string{"b/t1:10"}, true}, // there is always an entry, so that the listing goes on
		{2, 5, []string{"c/t1:2", "d/t2:2", "e/t1:1"}, false},
		{5, 0, nil, false},
	} {
		out, err := listPeers(t.Context(), tasks, &schedulerv1.ListPeersRequest{Start: c.start, Limit: 10}, c.maxPieces)
		require.NoError(t, err)
		require.Equal(t, c.want, listed(out), "%+v", c)
		require.Equal(t, c.truncated, out.GetTruncated(), "%+v", c)
	}
}

func TestListingReadsALargeTaskInChunks(t *testing.T) {
	peers := make(map[string]int)
	for i := range 3 * listingChunk {
		peers[fmt.Sprintf("%04d", i)] = 1
	}
	large := newTask(t, "t1", peers)
	out, err := listPeers(t.Context(), []*task.Task{large}, &schedulerv1.ListPeersRequest{Start: 10, Limit: 2*listingChunk + 10}, 10_000)
	require.NoError(t, err)
	got := listed(out)
	require.Len(t, got, 2*listingChunk+10)
	require.Equal(t, "0010/t1:1", got[0])
	require.IsIncreasing(t, got)
	keys, err := listingKeys(t.Context(), []*task.Task{large, large}, nil, 5) // cut several times
	require.NoError(t, err)
	require.Equal(t, []string{"0000", "0000", "0001", "0001", "0002"}, []string{
		keys[0].peerID, keys[1].peerID, keys[2].peerID, keys[3].peerID, keys[4].peerID,
	})
}

// The goroutine of the task does not run, so a listing would wait for ever.
func TestListingEndsWithItsCaller(t *testing.T) {
	stuck := task.New("t1", "u", task.Deps{Log: zap.NewNop(), Capacity: capacity.NewShares()})
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err := listPeers(ctx, []*task.Task{stuck}, &schedulerv1.ListPeersRequest{Limit: 10}, 10)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}
