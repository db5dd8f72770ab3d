package swarm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSourceThatFailsAPeerIsAvoidedByThatPeerOnly(t *testing.T) {
	s := newSwarm(t, 1, "bad", "a", "b")
	written(t, s, "bad", start, 0)
	offerFrom(t, s, "a", "bad", start)
	failed(t, s, "a", 0, "bad", start)
	require.Empty(t, s.Offer("a", start), "it waits for another source")
	offerFrom(t, s, "b", "bad", start)
	require.NoError(t, s.Restarted("b"))
	later := start.Add(avoidFor + time.Second)
	s.Tick(later)
	offerFrom(t, s, "a", "bad", later)
	checkBooks(t, s)
}

func TestSourceSendsOnePieceAtATimeAndOneMoreForEachThatItHasSent(t *testing.T) {
	s := newSwarm(t, 30, "source", "a", "b", "c")
	for num := range int32(30) {
		written(t, s, "source", start, num)
	}
	for sent := range settledBytes/size + 1 {
		offers := 0
		for _, id := range []string{"a", "b", "c"} {
			offers += len(s.Offer(id, start))
		}
		require.Equal(t, min(1+sent, s.slots(s.limits.Up, sent)), offers, "after %d pieces", sent)
		checkBooks(t, s)
		for _, id := range []string{"a", "b", "c"} {
			require.NoError(t, s.Restarted(id))
		}
		for _, o := range s.Offer("a", start)[:1] {
			require.NoError(t, s.SemiSuccess("a", o.Num, size, start))
		}
		require.NoError(t, s.Restarted("a"))
	}
}

// failWith lets peers fetch a piece from a source and fail, one after the other.
func failWith(t *testing.T, s *Swarm, source string, now time.Time, ids ...string) {
	t.Helper()
	for _, id := range ids {
		o := offerFrom(t, s, id, source, now)
		failed(t, s, id, o.Num, source, now)
	}
}

func TestUnprovenSourceIsSuspendedAfterTwoFailures(t *testing.T) {
	s := newSwarm(t, 1, "bad", "a", "b", "c")
	written(t, s, "bad", start, 0)
	failWith(t, s, "bad", start, "a", "b")
	require.Empty(t, s.pieces[0].holders)
	require.Empty(t, s.Sources())
	require.Equal(t, fresh, s.available.stage(0), "what only it has is fresh again")
	require.True(t, s.Offer("c", start)[0].FromCDN)
	checkBooks(t, s)
}

func TestProvenSourceIsSuspendedAfterFiveFailuresInARow(t *testing.T) {
	s := newSwarm(t, 1, "source", "a", "b", "c", "d", "e", "g")
	written(t, s, "source", start, 0)
	offerFrom(t, s, "g", "source", start)
	written(t, s, "g", start, 0)
	require.NoError(t, s.Down("g", start))
	failWith(t, s, "source", start, "a", "b", "c", "d")
	require.Len(t, s.pieces[0].holders, 1)
	failWith(t, s, "source", start, "e")
	require.Empty(t, s.pieces[0].holders)
	checkBooks(t, s)
}

func TestSuccessEndsTheFailuresInARow(t *testing.T) {
	s := newSwarm(t, 1, "source", "a", "b", "c")
	written(t, s, "source", start, 0)
	failWith(t, s, "source", start, "a")
	offerFrom(t, s, "b", "source", start)
	require.NoError(t, s.SemiSuccess("b", 0, size, start))
	failWith(t, s, "source", start, "c")
	require.Zero(t, s.peers["source"].suspensions)
}

func TestSuspendedSourceComesBackAndIsSuspendedForLongerEachTime(t *testing.T) {
	s := newSwarm(t, 1, "bad", "a", "b")
	written(t, s, "bad", start, 0)
	now := start
	for i := range 3 {
		failWith(t, s, "bad", now, "a", "b")
		over := now.Add(suspendMin << i)
		s.Tick(over.Add(-time.Millisecond))
		require.Empty(t, s.pieces[0].holders)
		s.Tick(over)
		require.Len(t, s.pieces[0].holders, 1, "it is a source again")
		checkBooks(t, s)
		now = over.Add(avoidFor + time.Second)
		s.Tick(now)
	}
	offerFrom(t, s, "a", "bad", now)
	written(t, s, "a", now, 0)
	require.Equal(t, proven, s.peers["bad"].source)
	require.Zero(t, s.peers["bad"].suspensions)
}

func TestSuspendedSourceThatIsRegisteredAgainStaysSuspended(t *testing.T) {
	s := newSwarm(t, 1, "bad", "a", "b")
	written(t, s, "bad", start, 0)
	failWith(t, s, "bad", start, "a", "b")
	s.AddPeer(peerInfo("bad", 0), start)
	written(t, s, "bad", start, 0)
	require.Empty(t, s.pieces[0].holders)
	checkBooks(t, s)
}

func TestPeerThatFailsWithManySourcesDownloadsFromTheCDNOnly(t *testing.T) {
	s := newSwarm(t, 2)
	ids := addPeers(s, cdnOnlyFailures+1, start)
	for _, id := range ids {
		written(t, s, id, start, 0, 1)
	}
	s.AddPeer(peerInfo("blocked", 99), start)
	for failures := 0; failures < cdnOnlyFailures; {
		offers := s.Offer("blocked", start)
		require.NotEmpty(t, offers)
		for _, o := range offers {
			require.False(t, o.FromCDN)
			failed(t, s, "blocked", o.Num, o.SourceID, start)
			failures++
		}
	}
	offers := s.Offer("blocked", start)
	require.Len(t, offers, 2)
	for _, o := range offers {
		require.True(t, o.FromCDN)
	}
}

func TestCDNThatFailsIsOfferedAgainAfterItsPause(t *testing.T) {
	s := newSwarm(t, 1, "a")
	offers := s.Offer("a", start)
	failed(t, s, "a", 0, offers[0].SourceID, start)
	require.Empty(t, s.Offer("a", start))
	require.Len(t, s.Offer("a", start.Add(cdnPause)), 1)
}

func TestLostPiecesAreNotOfferedFromThatPeer(t *testing.T) {
	s := newSwarm(t, 2, "holder", "a", "b")
	written(t, s, "holder", start, 0, 1)
	lost := offerFrom(t, s, "a", "holder", start).Num
	s.Lost("a", "holder", lost)
	require.Empty(t, s.pieces[lost].holders)
	require.Len(t, s.pieces[1-lost].holders, 1, "it still has the other piece")
	s.Lost("a", "unknown", -1)
	s.Lost("unknown", "holder", -1)
	s.Lost("a", "holder", -1)
	require.Empty(t, s.Sources())
	failed(t, s, "a", lost, "holder", start)
	require.True(t, s.Finished("holder"), "it keeps what it has")
	for _, o := range s.Offer("b", start) {
		require.True(t, o.FromCDN)
	}
	checkBooks(t, s)
}

// A client repeats its report for as long as it is answered to wait. If each
// repetition counted, a healthy source would be suspended for a single failure.
func TestRepeatedFailureReportCountsOnce(t *testing.T) {
	s := newSwarm(t, 1, "a")
	offers := s.Offer("a", start)
	require.Len(t, offers, 1)
	for i := range 10 {
		isNew, err := s.Failed("a", 0, size, offers[0].SourceID, start)
		require.NoError(t, err)
		require.Equal(t, i == 0, isNew)
	}
	later := start.Add(2 * cdnPause)
	again := s.Offer("a", later)
	require.Len(t, again, 1, "one failure causes one pause")
	isNew, err := s.Failed("a", 0, size, again[0].SourceID, later)
	require.NoError(t, err)
	require.True(t, isNew, "the piece was offered again in between")
}

func TestReportsOfAPeerThatWasNotSentToASourceChangeNothingForOthers(t *testing.T) {
	s := newSwarm(t, 2, "source", "liar", "a")
	written(t, s, "source", start, 0, 1)
	for i := range 3 * provenFailures {
		failed(t, s, "liar", int32(i%2), "source", start)
		s.Lost("liar", "source", int32(i%2))
		s.Lost("liar", "source", -1)
	}
	require.Len(t, s.pieces[0].holders, 1)
	require.Len(t, s.pieces[1].holders, 1)
	require.Zero(t, s.peers["source"].uploadFailures)
	offerFrom(t, s, "a", "source", start)
	checkBooks(t, s)
}

// One transfer is one failure: that it is overdue and that its receiver reports it
// as failed later do not count twice.
func TestTransferThatIsOverdueAndThenFailsCountsOnceAgainstItsSource(t *testing.T) {
	s := newSwarm(t, 2, "source", "other", "a")
	written(t, s, "source", start, 0)
	written(t, s, "other", start, 1)
	offers := s.Offer("a", start)
	require.Len(t, offers, 2)
	now := start.Add(time.Second)
	written(t, s, "a", now, 1)
	now = start.Add(time.Minute)
	s.Tick(now)
	require.Equal(t, overdue, s.peers["a"].running[0].state)
	failed(t, s, "a", 0, "source", now)
	require.Equal(t, 1, s.peers["source"].uploadFailures)
	require.Len(t, s.pieces[0].holders, 1)
	checkBooks(t, s)
}

func TestPeerThatComesBackServesWhatItReportedMeanwhile(t *testing.T) {
	s := newSwarm(t, 1, "a", "b")
	require.NoError(t, s.Down("a", start))
	written(t, s, "a", start, 0) // such a report is no sign of life
	checkBooks(t, s)
	require.NoError(t, s.Seen("a", start))
	checkBooks(t, s)
	offerFrom(t, s, "b", "a", start)
}

// badPeer misbehaves as a source. It costs every other peer at most one piece.
type badPeer struct {
	claim func(t *testing.T, s *Swarm, id string)
	fail  func(t *testing.T, s *Swarm, victim string, o Offer, now time.Time) time.Time
}

func TestBadSourceCostsEachPeerOnePieceAndAllOfThemTwo(t *testing.T) {
	const pieces, peers = 20, 10
	claimAll := func(t *testing.T, s *Swarm, id string) {
		for num := range int32(pieces) {
			written(t, s, id, start, num)
		}
	}
	reported := func(t *testing.T, s *Swarm, victim string, o Offer, now time.Time) time.Time {
		failed(t, s, victim, o.Num, o.SourceID, now)
		return now
	}
	for name, bad := range map[string]badPeer{
		"has no piece": {claimAll, func(t *testing.T, s *Swarm, victim string, o Offer, now time.Time) time.Time {
			s.Lost(victim, o.SourceID, -1)
			return reported(t, s, victim, o, now)
		}},
		"fails every transfer": {claimAll, reported},
		"claims twice, and pieces that do not exist": {func(t *testing.T, s *Swarm, id string) {
			claimAll(t, s, id)
			claimAll(t, s, id)
			require.ErrorIs(t, s.Written(id, pieces, size, start), ErrNoPiece)
			require.ErrorIs(t, s.SemiSuccess(id, 1<<30, size, start), ErrNoPiece)
			require.ErrorIs(t, s.Written(id, -1, size, start), ErrNoPiece)
		}, reported},
		"sends at 1 KB/s": {claimAll, func(_ *testing.T, s *Swarm, victim string, o Offer, _ time.Time) time.Time {
			tr := s.peers[victim].running[o.Num]
			s.peers[victim].lastSuccess = tr.started.Add(time.Millisecond) // from another source
			now := tr.due.Add(time.Millisecond)
			s.Tick(now)
			return now
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, pieces, "bad")
			ids := addPeers(s, peers, start)
			bad.claim(t, s, "bad")
			checkBooks(t, s)
			costs, now := make(map[string]int), start
			for range 10 { // while it is suspended no time passes

				for _, id := range ids {
					for _, o := range s.Offer(id, now) {
						if o.SourceID != "bad" {
							written(t, s, id, now, o.Num)
							continue
						}
						costs[id]++
						now = bad.fail(t, s, id, o, now)
					}
				}
				checkBooks(t, s)
			}
			total := 0
			for id, n := range costs {
				require.Equal(t, 1, n, "pieces that %s lost", id)
				total += n
			}
			require.LessOrEqual(t, total, unprovenFailures)
		})
	}
}

func TestTransfersToOnePeerThatFailTogetherAreOneFailureOfTheSource(t *testing.T) {
	s := newSwarm(t, 3, "source", "a")
	written(t, s, "source", start, 0, 1, 2)
	prove(s, "source")
	offers := s.Offer("a", start)
	require.Len(t, offers, few)
	for _, o := range offers {
		failed(t, s, "a", o.Num, "source", start)
	}
	require.Equal(t, 1, s.peers["source"].uploadFailures)
}

func TestSourceAtANewAddressIsUnprovenAndNotSuspended(t *testing.T) {
	s := newSwarm(t, 1, "source", "a", "b")
	written(t, s, "source", start, 0)
	for _, id := range []string{"a", "b"} {
		offerFrom(t, s, id, "source", start)
		failed(t, s, id, 0, "source", start)
	}
	require.Equal(t, suspended, s.peers["source"].source)
	moved := peerInfo("source", 0)
	moved.Port++
	s.AddPeer(moved, start)
	require.Equal(t, unproven, s.peers["source"].source)
	require.Len(t, s.pieces[0].holders, 1)
	checkBooks(t, s)
}

// A peer that pulls and never reports takes no more than its limit and two more.
func TestPeerThatNeverReportsHasABoundedNumberOfTransfers(t *testing.T) {
	s := newSwarm(t, 100, "a")
	for now := start; now.Before(start.Add(time.Minute)); now = now.Add(time.Second) {
		s.Tick(now)
		s.Offer("a", now)
		require.LessOrEqual(t, len(s.peers["a"].running), few+mostOverdue)
	}
}
