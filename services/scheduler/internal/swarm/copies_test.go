package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// addCopy attaches a replica that has the given pieces.
func addCopy(t *testing.T, s *Swarm, instance, ip string, pieces ...int) {
	t.Helper()
	s.SetCopy(Copy{Instance: instance, ID: "cdnnode:" + ip + "~x", IP: ip, Port: 8001, Path: "/download/x"})
	for _, i := range pieces {
		require.NoError(t, s.Landed(instance, int32(i), md5Of(i), size))
	}
}

func offersByIP(offers []Offer) map[string]int {
	from := make(map[string]int)
	for _, o := range offers {
		from[o.IP]++
	}
	return from
}

func TestCopiesShareOffersByRemainingCapacity(t *testing.T) {
	s := newSwarm(t, 4, "a")
	s.limits.Down = 2
	addCopy(t, s, "r", "127.0.0.2", 0, 1, 2, 3)
	require.Equal(t, map[string]int{"127.0.0.1": 1, "127.0.0.2": 1}, offersByIP(s.Offer("a", start)))
}

func TestCopyThatIsBusyWithOtherTasksIsNotOffered(t *testing.T) {
	s := newSwarm(t, 4, "a")
	addCopy(t, s, "r", "127.0.0.2", 0, 1, 2, 3)
	other := sharesOf(s).NewTask()
	for range wide / 2 {
		require.True(t, other.Take("cdn", start))
	}
	require.Equal(t, map[string]int{"127.0.0.2": few}, offersByIP(s.Offer("a", start)))
}

func TestCopyWithCapacityComesBeforeOneThatIsFullAndFailedLess(t *testing.T) {
	s := newSwarm(t, 4, "a")
	addCopy(t, s, "r", "127.0.0.2", 0, 1, 2, 3)
	s.peers["a"].recordCopyFailure(s.copyOf("r"), start)
	now := start.Add(cdnPauseMax)
	require.Equal(t, map[string]int{"127.0.0.1": few}, offersByIP(s.Offer("a", now)))
	require.NoError(t, s.Restarted("a"))
	sharesOf(s).Grant("cdn", 1)
	require.True(t, sharesOf(s).NewTask().Take("cdn", now))
	require.True(t, s.capacity.Take("cdn", now), "a task may always have one")
	require.Equal(t, map[string]int{"127.0.0.2": few}, offersByIP(s.Offer("a", now)))
}

func TestCopyIsOfferedOnlyForPiecesThatLandedOnIt(t *testing.T) {
	s := newSwarm(t, 4, "a")
	s.DropCopy("cdn")
	addCopy(t, s, "r1", "127.0.0.2", 0)
	addCopy(t, s, "r2", "127.0.0.3", 3)
	for _, o := range s.Offer("a", start) {
		require.Equal(t, map[int32]string{0: "127.0.0.2", 3: "127.0.0.3"}[o.Num], o.IP)
		require.Equal(t, "cdnnode:"+o.IP+"~x", o.SourceID)
	}
	require.Len(t, s.peers["a"].running, 2)
}

func TestDroppedCopyEndsItsTransfers(t *testing.T) {
	s := newSwarm(t, 4, "a")
	s.limits.Down = 2
	addCopy(t, s, "r", "127.0.0.2", 0, 1, 2, 3)
	require.Len(t, s.Offer("a", start), 2)
	s.DropCopy("cdn")
	require.Len(t, s.peers["a"].running, 1, "transfers from the other copy continue")
	require.Zero(t, inFlight(s, "cdn"))
	again := s.Offer("a", start)
	require.Equal(t, map[string]int{"127.0.0.2": 1}, offersByIP(again))
	s.AddPeer(peerInfo("b", 1), start)
	failed(t, s, "a", again[0].Num, "cdnnode:127.0.0.1~x", start) // the client's old download times out
	require.NoError(t, s.Written("b", 0, size, start), "a piece from a dropped copy counts")
	checkBooks(t, s)
	s.DropCopy("cdn")
	s.DropCopy("r")
	require.Empty(t, s.copies)
	checkBooks(t, s)
}

func TestCopyThatFailedAPeerIsThatPeersLastChoice(t *testing.T) {
	s := newSwarm(t, 1, "a", "b")
	addCopy(t, s, "r", "127.0.0.2", 0)
	first := s.Offer("a", start)[0]
	failed(t, s, "a", 0, first.SourceID, start)
	for range 3 {
		second := s.Offer("a", start.Add(cdnPauseMax))
		require.NotEqual(t, first.IP, second[0].IP, "the other copy is preferred even after the pause")
		require.NoError(t, s.Restarted("a"))
	}
	require.Equal(t, first.IP, s.Offer("b", start)[0].IP, "other peers still use it")
	require.NoError(t, s.Restarted("b"))
	s.DropCopy("r")
	require.Equal(t, first.IP, s.Offer("a", start.Add(cdnPause))[0].IP, "it is the only copy")
	require.NoError(t, s.Restarted("a"))
	addCopy(t, s, "r", "127.0.0.2", 0)
	later := start.Add(cdnPauseMax + avoidFor + time.Second)
	s.Tick(later)
	require.Equal(t, first.IP, s.Offer("a", later)[0].IP, "its failures expire")
}

func TestFailureIsAttributedToTheInstanceThatWasOffered(t *testing.T) {
	s := newSwarm(t, 1, "a")
	addCopy(t, s, "r", "127.0.0.1", 0)
	s.copies[1].Port = 8002
	first := s.Offer("a", start)[0]
	failed(t, s, "a", 0, first.SourceID, start)
	second := s.Offer("a", start)[0]
	require.Equal(t, first.SourceID, second.SourceID)
	require.NotEqual(t, first.Port, second.Port)
}

func TestCopyThatContradictsAnotherIsRefused(t *testing.T) {
	s := newSwarm(t, 2, "a")
	addCopy(t, s, "r", "127.0.0.2", 0)
	require.ErrorIs(t, s.Landed("r", 1, md5Of(7), size), ErrConflict)
	require.ErrorIs(t, s.SetFacts("r", Facts{Length: 5, PieceSize: size}), ErrConflict)
	require.ErrorIs(t, s.SetResult("r", Result{MD5: "other", Length: 1, PieceCount: 2}), ErrConflict)
	require.NoError(t, s.Landed("r", 1, md5Of(1), size))
	require.ErrorIs(t, s.Landed("unknown", 1, md5Of(1), size), ErrNoCopy)
	require.ErrorIs(t, s.SetFacts("unknown", Facts{}), ErrNoCopy)
	require.ErrorIs(t, s.SetResult("unknown", Result{}), ErrNoCopy)
}

func TestOwnersVersionReplacesAnotherUnlessAPeerMayHaveIt(t *testing.T) {
	other := Facts{Length: size - 5, PieceSize: size, ETag: "2"}
	for name, c := range map[string]struct {
		before func(s *Swarm)
		fails  bool
	}{
		"no peer has a piece": {before: func(*Swarm) {}},
		"a peer has a piece": {
			before: func(s *Swarm) { _ = s.Written("a", 0, size, start) }, fails: true,
		},
		"a peer may have a piece": {
			before: func(s *Swarm) { s.Offer("a", start); _ = s.Restarted("a") }, fails: true,
		},
		"the peer that had a piece has expired": {
			before: func(s *Swarm) {
				_ = s.Written("a", 0, size, start)
				s.Expire(start, start.Add(time.Second))
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, 2, "a")
			addCopy(t, s, "r", "127.0.0.2", 0, 1)
			c.before(s)
			err := s.SetFacts("cdn", other)
			if c.fails {
				require.ErrorIs(t, err, ErrConflict)
				require.ErrorIs(t, s.Landed("cdn", 0, md5Of(9), size), ErrConflict)
				return
			}
			require.NoError(t, err)
			require.NoError(t, s.Landed("cdn", 0, md5Of(9), size))
			require.NoError(t, s.SetResult("cdn", Result{MD5: "new", Length: size - 5, PieceCount: 1}))
			require.ErrorIs(t, s.Landed("r", 0, md5Of(0), size), ErrNoCopy, "the replica has the old version")
			s.AddPeer(peerInfo("late", 1), start)
			offers := s.Offer("late", start)
			require.Len(t, offers, 1)
			require.Equal(t, md5Of(9), offers[0].MD5)
			facts, _ := s.Facts()
			require.Equal(t, other, facts)
		})
	}
}

// TestAllPeersFinishWhileCopiesComeAndGo attaches, drops and fails copies at
// random while peers download, and checks the books after each step.
func TestAllPeersFinishWhileCopiesComeAndGo(t *testing.T) {
	for seed := range uint64(10) {
		rng := rand.New(rand.NewPCG(seed, 2))
		pieces := 1 + rng.IntN(12)
		all := make([]int, pieces)
		for i := range all {
			all[i] = i
		}
		s := newSwarm(t, pieces)
		s.random = rng
		sharesOf(s).Grant("cdn", 1+rng.IntN(8))
		now := start
		ids := addPeers(s, 3+rng.IntN(10), now)
		for step := 0; s.Unfinished() > 0; step++ {
			require.Less(t, step, 20000, "seed %d: some peer never finishes", seed)
			now = now.Add(time.Duration(rng.IntN(400)) * time.Millisecond)
			instance := fmt.Sprintf("r%d", rng.IntN(3))
			switch rng.IntN(10) {
			case 0:
				s.DropCopy(instance)
			case 1:
				addCopy(t, s, instance, "127.0.0.9", all[:rng.IntN(pieces+1)]...)
			case 2:
				s.DropCopy("cdn")
			case 3:
				addCopy(t, s, "cdn", "127.0.0.1", all...)
			}
			for _, id := range ids {
				for _, o := range append(s.Offer(id, now), s.Reoffer(id)...) {
					switch rng.IntN(10) {
					case 0:
						failed(t, s, id, o.Num, o.SourceID, now)
					case 1: // the download hangs
					default:
						require.NoError(t, s.Written(id, o.Num, size, now))
					}
				}
			}
			s.Tick(now)
			checkBooks(t, s)
		}
		s.Close()
		for _, instance := range []string{"cdn", "r0", "r1", "r2"} {
			require.Zero(t, inFlight(s, instance), "seed %d: capacity of %s is still taken", seed, instance)
		}
	}
}
