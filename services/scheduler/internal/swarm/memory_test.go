package swarm

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/internal/budget"
)

// restored makes a swarm of what another remembers, as its standby does: of all
// there is first, and then of what changed.
func restored(t *testing.T, memories ...Memory) *Swarm {
	t.Helper()
	require.True(t, memories[0].Anew)
	all := memories[0]
	peers := make(map[string]PeerMemory)
	for _, m := range memories {
		if m.Facts != nil {
			all.Facts = m.Facts
		}
		if m.Result != nil {
			all.Result = m.Result
		}
		for _, p := range m.Peers {
			peers[p.ID] = p
		}
		for _, id := range m.Forgotten {
			delete(peers, id)
		}
	}
	for _, m := range memories[1:] {
		all.Pieces = append(all.Pieces, m.Pieces...)
	}
	all.Peers = nil
	for _, p := range peers {
		all.Peers = append(all.Peers, p)
	}
	s := New(Limits{Up: 5, Down: 4}, budget.New(1<<40))
	s.Restore(all, start)
	return s
}

func TestRestoredSwarmGoesOn(t *testing.T) {
	s := newSwarm(t, 3, "whole", "half", "left")
	first := s.Changes(false)
	for num := range int32(3) {
		require.NoError(t, s.Got("whole", num, size, start))
	}
	require.NoError(t, s.Got("half", 0, size, start))
	require.NoError(t, s.Receiving("half", 1, size, start))
	require.NoError(t, s.Down("left", start))
	require.True(t, s.Changed())
	again := restored(t, first, s.Changes(false))
	require.False(t, s.Changed())

	require.True(t, again.Held())
	require.True(t, again.Finished("whole"), "the result is known")
	offers := again.Offer("half", start)
	require.Equal(t, []int32{2}, nums(offers), "what it has is not offered again")
	require.Equal(t, "whole", offers[0].SourceID, "no CDN is needed")
	require.Equal(t, md5Of(2), offers[0].MD5)
	again.AddPeer(peerInfo("new", 9), start)
	for _, o := range again.Offer("new", start) {
		if o.Num > 0 {
			require.Equal(t, "whole", o.SourceID, "nobody is sent to who left, nor to half-written pieces")
		}
	}
	again.Tick(start.Add(writeGrace))
	require.True(t, again.peers["half"].serves.Test(1), "its report was lost with who was to hear it")
	checkBooks(t, again)
}

// What nobody may take from a peer any more stays so: the piece was wrong, the
// file is gone, or the peer left.
func TestRestoredSwarmOffersNothingThatWasWithdrawn(t *testing.T) {
	s := newSwarm(t, 1, "wrong", "gone", "left")
	for _, id := range []string{"wrong", "gone", "left"} {
		require.NoError(t, s.Got(id, 0, size, start))
	}
	first := s.Changes(true)
	s.Lost("wrong", 0)
	s.Lost("gone", -1)
	require.NoError(t, s.Down("left", start))
	again := restored(t, first, s.Changes(false))
	again.Tick(start.Add(writeGrace))
	require.Empty(t, again.chunks[0].holders)
	require.True(t, again.Finished("wrong"), "it has it all the same")
	require.True(t, again.Held())
}

// A standby that nobody reaches must not make everything that changes be kept.
func TestChangesThatNobodyAsksForAreBounded(t *testing.T) {
	s := newSwarm(t, 1)
	s.Changes(true)
	later := start
	for i := range 5 * slack {
		s.AddPeer(peerInfo(fmt.Sprint(i), i%1000), later)
		require.NoError(t, s.Down(fmt.Sprint(i), later))
		later = later.Add(time.Second)
		s.Forget(later, start)
	}
	require.LessOrEqual(t, len(s.ledger.peers), slack+1)
	require.True(t, s.Changes(false).Anew)
}

func TestRestoredSwarmTakesTheCopiesOfItsVersion(t *testing.T) {
	s := newSwarm(t, 2, "p")
	require.NoError(t, s.Got("p", 0, size, start))
	again := restored(t, s.Changes(true))
	again.SetCopy(Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", Owner: true})
	require.NoError(t, again.SetFacts("cdn", s.facts))
	for i := range int32(2) {
		require.NoError(t, again.Landed("cdn", i, md5Of(int(i)), size))
	}
	require.NoError(t, again.SetResult("cdn", *s.result))
	require.ErrorIs(t, again.Landed("cdn", 1, md5Of(7), size), ErrConflict, "and no other")
	require.True(t, again.Offer("p", start)[0].FromCDN)
}

func TestChangesAreWhatChanged(t *testing.T) {
	s := newSwarm(t, 2, "a", "b")
	require.False(t, s.Changed(), "nobody wants to know")
	require.Len(t, s.Changes(false).Peers, 2)
	require.False(t, s.Changed())
	s.Offer("a", start)
	require.True(t, s.Changed(), "it began here")
	require.False(t, s.Changes(false).Peers[0].Newcomer)
	require.NoError(t, s.Restarted("a"))
	s.Offer("a", start)
	require.False(t, s.Changed(), "what is under way ends by itself")
	require.NoError(t, s.Got("a", 0, size, start))
	require.NoError(t, s.Got("a", 0, size, start))
	m := s.Changes(false)
	require.False(t, m.Anew)
	require.Len(t, m.Peers, 1)
	require.Equal(t, []uint64{1}, m.Peers[0].Serves)
	require.Nil(t, m.Facts)
	require.Empty(t, m.Pieces)
	require.NoError(t, s.Down("b", start))
	later := start.Add(blockFor)
	s.Forget(later, start)
	require.Equal(t, []string{"b"}, s.Changes(false).Forgotten)
	require.NoError(t, s.Seen("a", later))
	require.False(t, s.Changed(), "that a peer is alive is no news")
}

// Whatever another scheduler tells, a swarm comes out of it.
func TestRestoringNonsense(t *testing.T) {
	s := New(Limits{Up: 5, Down: 4}, budget.New(1<<40))
	s.Restore(Memory{
		Anew: true, Facts: &Facts{Length: 2 * (size - 5), PieceSize: size}, Result: &Result{PieceCount: 9},
		Pieces: []PieceMemory{{Num: -1, MD5: "m"}, {Num: 1 << 30, MD5: "m"}, {Num: 1, MD5: md5Of(1), Length: size}},
		Peers:  []PeerMemory{{PeerInfo: peerInfo("p", 1), Have: []uint64{^uint64(0), 1}, Serves: []uint64{^uint64(0)}}},
	}, start)
	require.Len(t, s.chunks, 2)
	_, whole := s.Result()
	require.False(t, whole)
	require.EqualValues(t, 2, s.peers["p"].have.Count())
	checkBooks(t, s)
}
