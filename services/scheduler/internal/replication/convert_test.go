package replication

import (
	"cmp"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// restoredFrom returns the state that a standby holds after the given updates, sorted.
// The first one must be a full update.
func restoredFrom(t *testing.T, updates ...swarm.Update) swarm.Update {
	t.Helper()
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	require.True(t, updates[0].Full)
	for _, u := range updates {
		applyUpdate(t, store, u)
	}
	state, ok := store.Get("id")
	require.True(t, ok)
	return sorted(state.Update)
}

// applyUpdate applies an update to a store, as parts that were sent over the wire.
func applyUpdate(t *testing.T, store *StandbyStore, u swarm.Update) {
	t.Helper()
	for _, p := range splitUpdate("id", header{}, u) {
		b, err := proto.Marshal(p)
		require.NoError(t, err)
		var got schedulerv1.TaskMemory
		require.NoError(t, proto.Unmarshal(b, &got))
		store.Apply("stream", &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{&got}}, time.Now())
	}
}

// sorted sorts the pieces and peers of an update, so that updates can be compared.
func sorted(u swarm.Update) swarm.Update {
	slices.SortFunc(u.Pieces, func(a, b swarm.PieceUpdate) int { return cmp.Compare(a.Num, b.Num) })
	slices.SortFunc(u.Peers, func(a, b swarm.PeerUpdate) int { return cmp.Compare(a.ID, b.ID) })
	return u
}

func TestStandbyHoldsTheStateThatWasSent(t *testing.T) {
	all := swarm.Update{
		Full:   true,
		Facts:  &swarm.Facts{Length: 7, PieceSize: 4 << 20, ETag: `"e"`, LastModified: "l"},
		Result: &swarm.Result{MD5: "m", Length: 7, PieceCount: 3},
		Pieces: []swarm.PieceUpdate{{Num: 0, MD5: "a", Length: 12}, {Num: 2, MD5: "b", Length: 9}},
		Peers: []swarm.PeerUpdate{
			{
				PeerInfo: swarm.PeerInfo{ID: "a", IP: "127.0.0.1", Port: 20000, Path: "/p", HostName: "h", Version: "1.0.6"},
				Have:     []uint64{7, 1 << 63}, Serves: []uint64{1, 1 << 63}, Writing: []uint64{2},
			},
			{PeerInfo: swarm.PeerInfo{ID: "left"}, Left: true},
			{PeerInfo: swarm.PeerInfo{ID: "migrant"}, Migrant: true},
			{PeerInfo: swarm.PeerInfo{ID: "newcomer"}, Newcomer: true},
		},
		Outdated: []string{"old", "older"},
	}
	require.Equal(t, all, restoredFrom(t, all))
	require.Equal(t, all, restoredFrom(t, all, all), "a full update replaces the state")

	changes := swarm.Update{
		Facts:   &swarm.Facts{Length: 8, PieceSize: 4 << 20},
		Result:  &swarm.Result{MD5: "n", Length: 8, PieceCount: 4},
		Pieces:  []swarm.PieceUpdate{{Num: 2, MD5: "c", Length: 9}, {Num: 3, MD5: "d", Length: 9}},
		Peers:   []swarm.PeerUpdate{{PeerInfo: swarm.PeerInfo{ID: "migrant"}, Have: []uint64{1}, Left: true}},
		Removed: []string{"left", "unknown"},
	}
	after := swarm.Update{
		Full: true, Facts: changes.Facts, Result: changes.Result,
		Pieces: []swarm.PieceUpdate{all.Pieces[0], changes.Pieces[0], changes.Pieces[1]},
		Peers:  []swarm.PeerUpdate{all.Peers[0], changes.Peers[0], all.Peers[3]}, Outdated: all.Outdated,
	}
	require.Equal(t, after, restoredFrom(t, all, changes))
	require.Equal(t, after, restoredFrom(t, all, changes, changes), "applying an update twice has no further effect")
	require.Equal(t, after, restoredFrom(t, all, changes, swarm.Update{}))
}

func TestChangedWordsAreMergedIntoAPeersBitSets(t *testing.T) {
	all := swarm.Update{Full: true, Peers: []swarm.PeerUpdate{
		{PeerInfo: swarm.PeerInfo{ID: "a", IP: "127.0.0.1"}, Have: []uint64{1, 2, 4}, Serves: []uint64{1, 0, 4}, Writing: []uint64{0, 2}},
		{PeerInfo: swarm.PeerInfo{ID: "b"}, Have: []uint64{8}, Newcomer: true},
	}}
	changes := swarm.Update{Peers: []swarm.PeerUpdate{
		{PeerInfo: swarm.PeerInfo{ID: "a", IP: "127.0.0.2"}, Partial: true, Left: true, Words: []swarm.WordUpdate{
			{Index: 1, Have: 3, Serves: 2}, {Index: 4, Have: 5, Serves: 1, Writing: 4},
			{Index: -1, Have: 1}, {Index: swarm.MaxWords, Have: 1}, // no task has pieces in these words
		}},
		{PeerInfo: swarm.PeerInfo{ID: "b"}, Partial: true},
		{PeerInfo: swarm.PeerInfo{ID: "unknown"}, Partial: true, Words: []swarm.WordUpdate{{Index: 0, Have: 1}}},
	}}
	want := []swarm.PeerUpdate{
		{
			PeerInfo: swarm.PeerInfo{ID: "a", IP: "127.0.0.2"}, Left: true,
			Have: []uint64{1, 3, 4, 0, 5}, Serves: []uint64{1, 2, 4, 0, 1}, Writing: []uint64{0, 0, 0, 0, 4},
		},
		{PeerInfo: swarm.PeerInfo{ID: "b"}, Have: []uint64{8}},
		{PeerInfo: swarm.PeerInfo{ID: "unknown"}, Have: []uint64{1}},
	}
	require.Equal(t, want, restoredFrom(t, all, changes).Peers)
	require.Equal(t, want, restoredFrom(t, all, changes, changes).Peers, "applying an update twice has no further effect")
	require.Equal(t, all.Peers, restoredFrom(t, all, changes, all).Peers)
}

// A takeover reads the state without holding the store's lock.
func TestStateThatGetHasReturnedDoesNotChange(t *testing.T) {
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	change := func(index int32) swarm.Update {
		return swarm.Update{Peers: []swarm.PeerUpdate{{
			PeerInfo: swarm.PeerInfo{ID: "p"}, Partial: true, Words: []swarm.WordUpdate{{Index: index, Have: 1}},
		}}}
	}
	applyUpdate(t, store, swarm.Update{Full: true, Peers: []swarm.PeerUpdate{{PeerInfo: swarm.PeerInfo{ID: "p"}, Have: []uint64{0, 0, 0}}}})
	first, _ := store.Get("id")
	applyUpdate(t, store, change(0))
	applyUpdate(t, store, change(1))
	second, _ := store.Get("id")
	applyUpdate(t, store, change(2))
	require.Equal(t, []uint64{0, 0, 0}, first.Update.Peers[0].Have)
	require.Equal(t, []uint64{1, 1, 0}, second.Update.Peers[0].Have)
	third, _ := store.Get("id")
	require.Equal(t, []uint64{1, 1, 1}, third.Update.Peers[0].Have)
}
