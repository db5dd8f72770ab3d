package swarm

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPeerIsOfferedAtMostDownPiecesAndEachOnce(t *testing.T) {
	s := newSwarm(t, 30, "a")
	require.Len(t, s.Offer("a", start), few, "its first pieces")
	require.NoError(t, s.Restarted("a"))
	for num := range int32(settledBytes / size) {
		written(t, s, "a", start, 14+num)
	}
	first := s.Offer("a", start)
	require.Len(t, first, 4)
	require.Empty(t, s.Offer("a", start), "no slot is free")
	require.NoError(t, s.Written("a", first[0].Num, size, start))
	next := s.Offer("a", start)
	require.Len(t, next, 1)
	require.NotContains(t, nums(first), next[0].Num)
}

func TestPeersThatStartTogetherAreOfferedDifferentPieces(t *testing.T) {
	s := newSwarm(t, 12, "a", "b", "c")
	seen := make(map[int32]bool)
	for _, id := range []string{"a", "b", "c"} {
		offers := s.Offer(id, start)
		require.NotEmpty(t, offers)
		for _, o := range offers {
			require.False(t, seen[o.Num], "piece %d was offered twice before every piece was offered once", o.Num)
			seen[o.Num] = true
		}
	}
}

func TestPeersArePreferredToTheCDNAndNearPeersToFarOnes(t *testing.T) {
	s := newSwarm(t, 1, "near", "far")
	s.AddPeer(PeerInfo{ID: "far", IP: "10.1.1.1", Port: 20000}, start)
	s.AddPeer(PeerInfo{ID: "me", IP: "127.0.1.1", Port: 20001}, start)
	require.NoError(t, s.Written("far", 0, size, start))
	offers := s.Offer("me", start)
	require.Equal(t, "far", offers[0].SourceID)
	require.NoError(t, s.Restarted("me"))
	require.NoError(t, s.Written("near", 0, size, start))
	offers = s.Offer("me", start)
	require.Equal(t, "near", offers[0].SourceID)
	require.False(t, offers[0].FromCDN)
}

func TestPeerWithoutAPortDownloadsButIsNotOfferedAsASource(t *testing.T) {
	s := newSwarm(t, 1)
	s.AddPeer(PeerInfo{ID: "cdnonly", IP: "127.0.1.1"}, start)
	s.AddPeer(PeerInfo{ID: "me", IP: "127.0.1.1", Port: 20001}, start)
	require.True(t, s.Offer("cdnonly", start)[0].FromCDN)
	require.NoError(t, s.Written("cdnonly", 0, size, start))
	require.True(t, s.Offer("me", start)[0].FromCDN)
}

func TestUploadSlotIsReleasedByEveryEndOfATransfer(t *testing.T) {
	free := map[string]func(s *Swarm, id string, num int32){
		"report":       func(s *Swarm, id string, num int32) { _ = s.Written(id, num, size, start) },
		"semi-success": func(s *Swarm, id string, num int32) { _ = s.SemiSuccess(id, num, size, start) },
		"failure":      func(s *Swarm, id string, num int32) { _, _ = s.Failed(id, num, size, "holder", start) },
		"peer's end":   func(s *Swarm, id string, _ int32) { _ = s.Down(id, start) },
		"restart":      func(s *Swarm, id string, _ int32) { _ = s.Restarted(id) },
		"time":         func(s *Swarm, _ string, _ int32) { s.Tick(start.Add(time.Minute)) },
		"undelivered": func(s *Swarm, id string, num int32) {
			s.Undelivered(id, []Offer{{Num: num, transfer: s.peers[id].running[num]}})
		},
	}
	for name, end := range free {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, 1, "holder", "a", "b", "c", "d", "e", "f")
			require.NoError(t, s.Written("holder", 0, size, start))
			prove(s, "holder")
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				require.Equal(t, "holder", s.Offer(id, start)[0].SourceID)
			}
			require.Equal(t, 5, s.peers["holder"].uploads)
			require.Empty(t, s.Offer("f", start), "the holder has no free upload slot")
			end(s, "a", 0)
			want := 4
			if name == "time" {
				want = 0
			}
			require.Equal(t, want, s.peers["holder"].uploads)
			checkBooks(t, s)
		})
	}
}

func TestReportsAreIdempotentAndAcceptAnUnknownSource(t *testing.T) {
	s := newSwarm(t, 2, "a", "b")
	for range 3 {
		require.NoError(t, s.Written("a", 0, size, start))
		require.NoError(t, s.SemiSuccess("a", 0, size, start))
	}
	require.Len(t, s.pieces[0].holders, 1)
	failed(t, s, "b", 1, "unknown source", start)
	require.ErrorIs(t, s.Written("unknown", 0, size, start), ErrNoPeer)
	require.ErrorIs(t, s.Written("a", 2, size, start), ErrNoPiece)
	require.ErrorIs(t, s.Written("a", -1, size, start), ErrNoPiece)
	require.ErrorIs(t, s.Written("a", 0, size/2, start), ErrNoPiece)
}

func TestSemiSuccessIsServedAfterTheGracePeriod(t *testing.T) {
	s := newSwarm(t, 1, "a", "b")
	require.NoError(t, s.SemiSuccess("a", 0, size, start))
	require.True(t, s.Finished("a"), "the peer has every piece")
	require.Empty(t, s.Offer("b", start), "the piece is not on its disk yet")
	s.Tick(start.Add(writeGrace))
	require.Equal(t, "a", s.Offer("b", start.Add(writeGrace))[0].SourceID)
}

func TestSecondVersionIsRefusedOnceAPeerHasTheFirst(t *testing.T) {
	s := newSwarm(t, 2, "a")
	require.NoError(t, s.Written("a", 0, size, start))
	require.ErrorIs(t, s.SetFacts("cdn", Facts{Length: 5, PieceSize: size}), ErrConflict)
	require.ErrorIs(t, s.SetFacts("cdn", Facts{Length: -1, PieceSize: size * 2}), ErrResized)
	require.NoError(t, s.SetFacts("cdn", Facts{Length: -1, PieceSize: size}))
	require.ErrorIs(t, s.Landed("cdn", 0, md5Of(7), size), ErrConflict)
	require.ErrorIs(t, s.Landed("cdn", 1<<30, md5Of(7), size), ErrNoPiece)
	require.ErrorIs(t, s.SetResult("cdn", Result{MD5: "other", Length: 1, PieceCount: 2}), ErrConflict)
}

func TestNewCopyIsOfferedOnlyForPiecesThatLandedOnIt(t *testing.T) {
	s := newSwarm(t, 2, "a")
	s.DropCopy("cdn")
	s.SetCopy(Copy{Instance: "cdn2", ID: "cdnnode:127.0.0.2~x", IP: "127.0.0.2", Port: 8001})
	require.Empty(t, s.Offer("a", start))
	require.NoError(t, s.Landed("cdn2", 1, md5Of(1), size))
	offers := s.Offer("a", start)
	require.Equal(t, []int32{1}, nums(offers))
	require.Equal(t, "127.0.0.2", offers[0].IP)
}

func TestOffersAreRepeatedOnlyWhenAllThatIsLackingIsRunning(t *testing.T) {
	s := newSwarm(t, 4, "a")
	require.Len(t, s.Offer("a", start), few)
	require.Empty(t, s.Reoffer("a"), "a piece is lacking that is not running")
	require.NoError(t, s.Written("a", 0, size, start))
	require.Len(t, s.Offer("a", start), 1)
	again := s.Reoffer("a")
	require.ElementsMatch(t, []int32{1, 2, 3}, nums(again))
	for _, o := range again {
		require.True(t, o.Repeated)
	}
	s.Undelivered("a", again)
	require.Len(t, s.peers["a"].running, few, "a repeated offer is no transfer of its own")
	checkBooks(t, s)
}

func TestOffersAreNotRepeatedWhileMorePiecesMayLand(t *testing.T) {
	s := newSwarm(t, 1, "a")
	s.result = nil
	require.Len(t, s.Offer("a", start), 1)
	require.Empty(t, s.Reoffer("a"))
}

func TestExpireRemovesAllStateOfAPeer(t *testing.T) {
	s := newSwarm(t, 2, "gone", "silent", "a")
	for _, id := range []string{"gone", "silent"} {
		require.NoError(t, s.Written(id, 0, size, start))
	}
	require.NotEmpty(t, s.Offer("a", start))
	require.NoError(t, s.Down("gone", start))
	require.NoError(t, s.Seen("a", start.Add(time.Hour)))
	s.Expire(start.Add(time.Minute), start.Add(time.Minute))
	require.Len(t, s.peers, 1)
	require.Empty(t, s.pieces[0].holders)
	checkBooks(t, s)
}

// TestAllPeersFinishWhenPeersFailLeaveAndLoseReports makes peers lose reports, fail
// and leave at random, and checks the books after each step.
func TestAllPeersFinishWhenPeersFailLeaveAndLoseReports(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := newSwarm(t, 1+rng.IntN(20))
		s.random = rng
		sharesOf(s).Grant("cdn", 1+rng.IntN(8))
		now := start
		alive := addPeers(s, 3+rng.IntN(20), now)
		for i, id := range alive {
			if rng.IntN(5) == 0 { // it does not upload
				info := peerInfo(id, i)
				info.Port = 0
				s.AddPeer(info, now)
			}
		}
		for step := 0; s.Unfinished() > 0; step++ {
			require.Less(t, step, 20000, "seed %d: some peer never finishes", seed)
			now = now.Add(time.Duration(rng.IntN(400)) * time.Millisecond)
			alive = slices.DeleteFunc(alive, func(id string) bool {
				require.NoError(t, s.Seen(id, now))
				randomStep(t, s, rng, id, now)
				if rng.IntN(200) > 0 || len(alive) < 4 {
					return false
				}
				require.NoError(t, s.Down(id, now))
				return rng.IntN(2) == 0 // or it comes back
			})
			s.Tick(now)
			checkBooks(t, s)
		}
		s.Expire(now.Add(time.Second), now.Add(time.Second))
		checkBooks(t, s)
		s.Close()
		require.Zero(t, inFlight(s, "cdn"), "seed %d: capacity is still taken", seed)
	}
}

// randomStep lets a peer pull, and report anything of what it is offered.
func randomStep(t *testing.T, s *Swarm, rng *rand.Rand, id string, now time.Time) {
	t.Helper()
	for _, o := range append(s.Offer(id, now), s.Reoffer(id)...) {
		switch rng.IntN(12) {
		case 0:
			failed(t, s, id, o.Num, o.SourceID, now)
		case 1: // the report is lost
		case 2:
			require.NoError(t, s.SemiSuccess(id, o.Num, size, now))
		case 3:
			s.Undelivered(id, []Offer{o})
		case 4:
			s.Lost(id, o.SourceID, o.Num)
		default:
			require.NoError(t, s.Written(id, o.Num, size, now))
		}
	}
}

// The offers of an abandoned pull are revoked, but not a later offer of the same
// piece.
func TestUndeliveredEndsOnlyTheTransfersOfThatOffer(t *testing.T) {
	s := newSwarm(t, 1, "a")
	lost := s.Offer("a", start)
	require.NoError(t, s.Restarted("a"))
	again := s.Offer("a", start)
	require.Len(t, again, 1)
	s.Undelivered("a", lost)
	require.Empty(t, s.Offer("a", start), "it is being downloaded")
	s.Undelivered("a", again)
	require.Len(t, s.Offer("a", start), 1)
}
