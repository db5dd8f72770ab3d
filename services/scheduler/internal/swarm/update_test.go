package swarm

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// restoredSwarm returns a swarm that is restored from a full update. How a standby
// merges updates is tested in the package that replicates them.
func restoredSwarm(t *testing.T, all Update) *Swarm {
	t.Helper()
	require.True(t, all.Full)
	s := emptySwarm()
	s.Restore(all, start)
	checkBooks(t, s)
	return s
}

// While the standby cannot be reached, changes are recorded but not collected.
func TestChangeLogIsBoundedWhenChangesAreNotCollected(t *testing.T) {
	s := newSwarm(t, 1)
	s.Changes(true)
	later := start
	for i := range 5 * changeLogSlack {
		s.AddPeer(peerInfo(fmt.Sprint(i), i%1000), later)
		require.NoError(t, s.Down(fmt.Sprint(i), later))
		later = later.Add(time.Second)
		s.Expire(later, start)
	}
	require.LessOrEqual(t, len(s.changes.peers), changeLogSlack+1)
	require.True(t, s.Changes(false).Full)
}

func TestChangesReturnsOnlyWhatChanged(t *testing.T) {
	s := newSwarm(t, 2, "a", "b")
	require.False(t, s.Changed(), "recording starts with the first call of Changes")
	require.Len(t, s.Changes(false).Peers, 2)
	require.False(t, s.Changed())
	s.Offer("a", start)
	require.True(t, s.Changed(), "the peer has received an offer")
	require.False(t, s.Changes(false).Peers[0].Newcomer)
	require.NoError(t, s.Restarted("a"))
	s.Offer("a", start)
	require.False(t, s.Changed(), "running transfers are not replicated")
	require.NoError(t, s.Written("a", 0, size, start))
	require.NoError(t, s.Written("a", 0, size, start))
	m := s.Changes(false)
	require.False(t, m.Full)
	require.Len(t, m.Peers, 1)
	require.Equal(t, []uint64{1}, m.Peers[0].Serves)
	require.Nil(t, m.Facts)
	require.Empty(t, m.Pieces)
	require.NoError(t, s.Down("b", start))
	later := start.Add(time.Minute)
	s.Expire(later, start)
	require.Equal(t, []string{"b"}, s.Changes(false).Removed)
	require.NoError(t, s.Seen("a", later))
	require.False(t, s.Changed(), "signs of life are not replicated")
}

// The state comes from another process, so Restore must accept any.
func TestRestoreSkipsInvalidState(t *testing.T) {
	s := emptySwarm()
	s.Restore(Update{
		Full: true, Facts: &Facts{Length: 2 * (size - 5), PieceSize: size}, Result: &Result{PieceCount: 9},
		Pieces: []PieceUpdate{{Num: -1, MD5: "m"}, {Num: 1 << 30, MD5: "m"}, {Num: 1, MD5: md5Of(1), Length: size}},
		Peers:  []PeerUpdate{{PeerInfo: peerInfo("p", 1), Have: []uint64{^uint64(0), 1}, Serves: []uint64{^uint64(0)}}},
	}, start)
	require.Len(t, s.pieces, 2)
	_, whole := s.Result()
	require.False(t, whole)
	require.EqualValues(t, 2, s.peers["p"].have.Count())
	checkBooks(t, s)
}
