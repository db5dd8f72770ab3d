package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/internal/budget"
)

const size = 4 << 20

var start = time.Unix(1_700_000_000, 0)

func newSwarm(t *testing.T, pieces int, peers ...string) *Swarm {
	t.Helper()
	s := New(Limits{Up: 5, Down: 4}, budget.New(1<<40))
	s.SetCopy(Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", IP: "127.0.0.1", Port: 8001, Path: "/download/x", Owner: true})
	require.NoError(t, s.SetFacts("cdn", Facts{Length: int64(pieces) * (size - 5), PieceSize: size}))
	for i := range pieces {
		require.NoError(t, s.Landed("cdn", int32(i), md5Of(i), size))
	}
	require.NoError(t, s.SetResult("cdn", Result{MD5: "m", Length: int64(pieces) * (size - 5), PieceCount: int32(pieces)}))
	for i, id := range peers {
		s.AddPeer(peerInfo(id, i), start)
	}
	return s
}

func md5Of(i int) string { return fmt.Sprintf("%032x", i) }

func peerInfo(id string, i int) PeerInfo {
	return PeerInfo{ID: id, IP: fmt.Sprintf("127.0.%d.%d", 1+i/250, 1+i%250), Port: 20000, Path: "/peer/file/" + id}
}

func nums(offers []Offer) []int32 {
	var list []int32
	for _, o := range offers {
		list = append(list, o.Num)
	}
	return list
}

func TestPeerIsOfferedAtMostDownPiecesAndEachOnce(t *testing.T) {
	s := newSwarm(t, 10, "a")
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
		for _, o := range s.Offer(id, start) {
			require.False(t, seen[o.Num], "piece %d was offered twice before every piece was offered once", o.Num)
			seen[o.Num] = true
		}
	}
	require.Len(t, seen, 12)
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
			for _, id := range []string{"a", "b", "c", "d", "e"} {
				require.Equal(t, "holder", s.Offer(id, start)[0].SourceID)
			}
			require.Equal(t, 5, s.peers["holder"].uploads)
			for _, o := range s.Offer("f", start) {
				require.True(t, o.FromCDN, "the holder has no free upload slot")
			}
			require.NoError(t, s.Restarted("f"))
			end(s, "a", 0)
			want := 4
			if name == "time" {
				want = 0
			}
			require.Equal(t, want, s.peers["holder"].uploads)
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
	require.True(t, s.Offer("b", start)[0].FromCDN, "the piece is not on its disk yet")
	require.NoError(t, s.Restarted("b"))
	s.Tick(start.Add(writeGrace))
	require.Equal(t, "a", s.Offer("b", start)[0].SourceID)
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

func TestOldOffersAreRepeatedOnlyWhenNoOtherPieceIsMissing(t *testing.T) {
	s := newSwarm(t, 2, "a")
	require.Len(t, s.Offer("a", start), 2)
	require.NoError(t, s.Written("a", 0, size, start))
	require.Empty(t, s.Reoffer("a", start), "the offer is recent")
	again := s.Reoffer("a", start.Add(reofferAfter))
	require.Equal(t, []int32{1}, nums(again))
	require.Len(t, s.peers["a"].running, 1, "a repeated offer takes no further slot")
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
	checkCounters(t, s)
}

// checkCounters verifies that every transfer is counted at both of its ends.
func checkCounters(t *testing.T, s *Swarm) {
	t.Helper()
	uploads, cdn := make(map[*Peer]int), make(map[*cdnCopy]int)
	flights := 0
	for _, p := range s.peers {
		require.LessOrEqual(t, len(p.running), s.limits.Down)
		for num, tr := range p.running {
			require.Contains(t, s.pieces[num].transfers, tr)
			flights++
			if tr.from == nil {
				cdn[tr.cdn]++
			} else {
				uploads[tr.from]++
			}
		}
	}
	for _, p := range s.peers {
		require.Equal(t, uploads[p], p.uploads, "uploads of %s", p.ID)
		require.LessOrEqual(t, p.uploads, s.limits.Up)
	}
	for _, c := range s.copies {
		require.Equal(t, cdn[c], c.transfers, "pieces from %s", c.Instance)
		delete(cdn, c)
	}
	require.Empty(t, cdn, "no transfer may use a dropped copy")
	for _, ch := range s.pieces {
		flights -= len(ch.transfers)
		for _, h := range ch.holders {
			require.Contains(t, s.peers, h.ID)
		}
	}
	require.Zero(t, flights)
}

// TestAllPeersFinishWhenPeersFailLeaveAndLoseReports makes peers lose reports, fail
// and leave at random, and checks the counters after each step.
func TestAllPeersFinishWhenPeersFailLeaveAndLoseReports(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		pieces := 1 + rng.IntN(20)
		s := newSwarm(t, pieces)
		b := budget.New(16 * size)
		s.budget = b
		now := start
		alive := make(map[string]bool)
		for i := range 3 + rng.IntN(20) {
			id := fmt.Sprintf("p%d", i)
			s.AddPeer(peerInfo(id, i), now)
			alive[id] = true
		}
		for step := 0; s.Unfinished() > 0; step++ {
			require.Less(t, step, 20000, "seed %d: some peer never finishes", seed)
			now = now.Add(time.Duration(rng.IntN(400)) * time.Millisecond)
			for id := range alive {
				for _, o := range append(s.Offer(id, now), s.Reoffer(id, now)...) {
					switch rng.IntN(12) {
					case 0:
						failed(t, s, id, o.Num, o.SourceID, now)
					case 1: // the report is lost
					case 2:
						require.NoError(t, s.SemiSuccess(id, o.Num, size, now))
					case 3:
						s.Undelivered(id, []Offer{o})
					default:
						require.NoError(t, s.Written(id, o.Num, size, now))
					}
				}
				if len(alive) > 2 && rng.IntN(200) == 0 {
					require.NoError(t, s.Down(id, now))
					delete(alive, id)
				}
			}
			s.Tick(now)
			checkCounters(t, s)
		}
		s.Close()
		require.True(t, b.Take("cdn", 16*size, false), "seed %d: bytes are still charged", seed)
	}
}

func TestPeerWaitsForOthersOnlyWhenTheCDNHasNoSpareBudget(t *testing.T) {
	for name, c := range map[string]struct{ limit, served int }{
		"to spare": {limit: 100, served: 6},
		"busy":     {limit: 5, served: parallelFetches},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, 1, "a", "b", "c", "d", "e", "f")
			s.budget = budget.New(int64(c.limit) * size)
			served := 0
			for _, id := range []string{"a", "b", "c", "d", "e", "f"} {
				served += len(s.Offer(id, start))
			}
			require.Equal(t, c.served, served)
			if name == "busy" {
				require.NotEmpty(t, s.Offer("f", start.Add(recentTransfer)), "peers do not wait for slow downloads")
			}
		})
	}
}

func TestTaskHasAMinimumShareOfABusyCDN(t *testing.T) {
	shared := budget.New(16 * size)
	busy := newSwarm(t, 16)
	busy.budget = shared
	for i := range 4 {
		id := fmt.Sprint("busy", i)
		busy.AddPeer(peerInfo(id, i), start)
		require.Len(t, busy.Offer(id, start), 4)
	}
	other := newSwarm(t, 20, "x", "y", "z")
	other.budget = shared
	given := 0
	for _, id := range []string{"x", "y", "z"} {
		given += len(other.Offer(id, start))
	}
	require.Equal(t, minCDNTransfers, given)
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
