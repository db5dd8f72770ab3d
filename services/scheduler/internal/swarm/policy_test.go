package swarm

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// simulation lets peers fetch at fixed rates: all that was offered in a round has
// arrived in the next one.
type simulation struct {
	s     *Swarm
	ids   []string
	now   time.Time
	round time.Duration
	rng   *rand.Rand
	// arrives tells whether a transfer ends. It is nil if all do.
	arrives func(id string, o Offer) bool
	offered map[string][]Offer
	given   map[string]int // offers, by peer
}

func simulate(t testing.TB, pieces, peers, window int) *simulation {
	t.Helper()
	s := newSwarm(t, pieces)
	sharesOf(s).Grant("cdn", window)
	s.landedAtPeers = 0
	return &simulation{
		s: s, ids: addPeers(s, peers, start), now: start, round: 100 * time.Millisecond, rng: rand.New(rand.NewPCG(3, 4)),
		offered: make(map[string][]Offer), given: make(map[string]int),
	}
}

// step lets what was offered arrive, and all peers pull in random order.
func (m *simulation) step(t testing.TB) {
	t.Helper()
	m.now = m.now.Add(m.round)
	for _, id := range m.ids {
		for _, o := range m.offered[id] {
			if m.arrives == nil || m.arrives(id, o) {
				written(t, m.s, id, m.now, o.Num)
			}
		}
		delete(m.offered, id)
	}
	m.s.Tick(m.now)
	m.rng.Shuffle(len(m.ids), func(i, j int) { m.ids[i], m.ids[j] = m.ids[j], m.ids[i] })
	for _, id := range m.ids {
		require.NoError(t, m.s.Seen(id, m.now))
		offers := m.s.Offer(id, m.now)
		m.offered[id] = offers
		m.given[id] += len(offers)
	}
}

// sent returns how often the piece left the CDN that left it least, and most often.
func (m *simulation) sent() (least, most int) {
	least = m.s.pieces[0].sent
	for _, p := range m.s.pieces {
		least, most = min(least, p.sent), max(most, p.sent)
	}
	return least, most
}

func TestEachPieceLeavesTheCDNOnceBeforeAnyLeavesItTwiceWhilePeersServe(t *testing.T) {
	for _, window := range []int{1, 4, 8, 40} {
		m := simulate(t, 100, 20, window)
		for steps := 0; m.s.Unfinished() > 0; steps++ {
			require.Less(t, steps, 2000, "window %d", window)
			m.step(t)
			checkBooks(t, m.s)
			require.LessOrEqual(t, inFlight(m.s, "cdn"), window)
			least, most := m.sent()
			require.False(t, least == 0 && most > 1, "window %d: a piece left the CDN twice before another left it", window)
		}
	}
}

func TestFreshPiecesAreSharedOutAmongThePeersThatAsk(t *testing.T) {
	for peers, share := range map[int]int{1: few, 2: 2, 3: 2, 4: 1, 20: 1} {
		s := newSwarm(t, 100)
		for _, id := range addPeers(s, peers, start) {
			require.Len(t, s.Offer(id, start), share, "%d peers", peers)
		}
	}
}

func TestTaskBeginsWithFewFirstCopiesAndEachThatArrivesAllowsOneMore(t *testing.T) {
	s := newSwarm(t, 100)
	s.landedAtPeers = 0
	ids := addPeers(s, 20, start)
	offerAll := func() (offers int) {
		for _, id := range ids {
			offers += len(s.Offer(id, start))
		}
		return offers
	}
	require.Equal(t, firstCopiesAtOnce, offerAll())
	for num, tr := range s.peers[ids[0]].running {
		require.NotNil(t, tr.cdn)
		require.NoError(t, s.SemiSuccess(ids[0], num, size, start))
	}
	require.Equal(t, 2, offerAll(), "one is free, and one more is allowed")
	checkBooks(t, s)
}

func TestPieceOnItsWayToAPeerIsNotSentToAnother(t *testing.T) {
	s := newSwarm(t, 1, "a", "b")
	require.Len(t, s.Offer("a", start), 1)
	require.Empty(t, s.Offer("b", start))
	require.NoError(t, s.SemiSuccess("a", 0, size, start))
	require.Empty(t, s.Offer("b", start), "the only holder is writing it")
	written(t, s, "a", start, 0)
	offerFrom(t, s, "b", "a", start)
	require.Equal(t, 1, s.pieces[0].sent)
}

func TestPieceWhoseOnlyCopyIsLostIsFreshAgain(t *testing.T) {
	for name, lose := range map[string]func(s *Swarm){
		"failed":      func(s *Swarm) { _, _ = s.Failed("a", 0, size, "unknown source", start) },
		"restarted":   func(s *Swarm) { _ = s.Restarted("a") },
		"undelivered": func(s *Swarm) { s.Undelivered("a", []Offer{{transfer: s.peers["a"].running[0]}}) },
		"overdue":     func(s *Swarm) { s.Tick(s.peers["a"].running[0].due.Add(time.Millisecond)) },
		"receiver left": func(s *Swarm) {
			_ = s.Down("a", start)
		},
		"holder left": func(s *Swarm) {
			_ = s.Written("a", 0, size, start)
			_ = s.Down("a", start)
		},
		"holder expired": func(s *Swarm) {
			_ = s.Written("a", 0, size, start)
			_ = s.Seen("b", start.Add(time.Hour))
			s.Expire(start, start.Add(time.Second))
		},
		"writer left": func(s *Swarm) {
			_ = s.SemiSuccess("a", 0, size, start)
			_ = s.Down("a", start)
		},
		"holder serves no more": func(s *Swarm) {
			_ = s.Written("a", 0, size, start)
			info := peerInfo("a", 0)
			info.Port = 0
			s.AddPeer(info, start)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, 1, "a", "b")
			require.Len(t, s.Offer("a", start), 1)
			require.Equal(t, underway, s.available.stage(0))
			lose(s)
			checkBooks(t, s)
			require.Equal(t, fresh, s.available.stage(0))
			offers := s.Offer("b", start)
			require.Len(t, offers, 1)
			require.True(t, offers[0].FromCDN)
			require.Equal(t, 2, s.pieces[0].sent)
		})
	}
}

func TestPieceThatNeverLeftTheCDNComesBeforeOneThatIsFreshAgain(t *testing.T) {
	s := newSwarm(t, 2, "a", "b", "c", "d")
	first := s.Offer("a", start)
	require.Len(t, first, 1)
	require.NoError(t, s.Restarted("a"))
	require.Equal(t, []int32{1 - first[0].Num}, nums(s.Offer("b", start)))
	require.Equal(t, nums(first), nums(s.Offer("c", start)))
}

func TestPeerFallsBackToTheCDNOnlyAfterItWaitedWithNothingRunning(t *testing.T) {
	s := newSwarm(t, 2, "holder", "a", "b", "c")
	written(t, s, "holder", start, 0, 1)
	offerFrom(t, s, "a", "holder", start) // its only slot
	require.Empty(t, s.Offer("b", start), "it begins to wait")
	require.Empty(t, s.Offer("b", start.Add(fallbackMax-time.Millisecond)))
	require.Empty(t, s.Offer("a", start.Add(fallbackMax)), "it is fetching a piece")
	offers := s.Offer("b", start.Add(fallbackMax))
	require.Len(t, offers, 1, "one piece, not all")
	require.True(t, offers[0].FromCDN)
	require.Empty(t, s.Offer("c", start.Add(fallbackMax)), "it has only begun to wait")
	checkBooks(t, s)
}

func TestFallbackComesEarlierTheFasterPiecesAre(t *testing.T) {
	for usual, delay := range map[time.Duration]time.Duration{
		0: fallbackMax, time.Millisecond: fallbackMin, 500 * time.Millisecond: time.Second, time.Minute: fallbackMax,
	} {
		s := newSwarm(t, 1)
		s.pieceTime = smoothed(usual)
		require.Equal(t, delay, s.fallbackDelay(), "usual time %s", usual)
	}
}

// The CDN's whole window is in use in each swarm that cannot exchange.
func TestWholeWindowIsUsedWhenPeersCannotExchange(t *testing.T) {
	const peers, window = 10, 16
	noPort := func(m *simulation) {
		for i, id := range m.ids {
			info := peerInfo(id, i)
			info.Port = 0
			m.s.AddPeer(info, m.now)
		}
	}
	unreachable := func(m *simulation) {
		m.arrives = func(id string, o Offer) bool {
			if !o.FromCDN {
				_, _ = m.s.Failed(id, o.Num, size, o.SourceID, m.now)
			}
			return o.FromCDN
		}
	}
	for name, prepare := range map[string]func(*simulation){"no peer uploads": noPort, "no peer is reachable": unreachable} {
		t.Run(name, func(t *testing.T) {
			m := simulate(t, 400, peers, window)
			prepare(m)
			for range 30 { // 3 s, to find that out
				m.step(t)
			}
			checkBooks(t, m.s)
			full := 0
			for range 50 {
				m.step(t)
				if inFlight(m.s, "cdn") == window {
					full++
				}
			}
			require.GreaterOrEqual(t, full, 45, "rounds of 50 in which the window was used up")
		})
	}
}

func TestCDNThatIsSlowBesideThePeersSendsNoSecondCopies(t *testing.T) {
	m := simulate(t, 300, 20, 1)
	for m.s.Unfinished() > 0 {
		m.step(t)
		require.Less(t, m.now.Sub(start), 10*time.Minute)
	}
	sent := 0
	for _, p := range m.s.pieces {
		sent += p.sent
	}
	require.LessOrEqual(t, sent, 330, "copies of 300 pieces for 20 peers")
}

func TestOverdueTransferFreesTheSourcesSlotAndTheReceiversRoomButNotThePiece(t *testing.T) {
	s := newSwarm(t, 1, "source", "a", "b")
	written(t, s, "source", start, 0)
	offerFrom(t, s, "a", "source", start)
	require.Empty(t, s.Offer("b", start))
	due := s.peers["a"].running[0].due
	s.Tick(due)
	require.Equal(t, 1, s.peers["source"].uploads)
	now := due.Add(time.Millisecond)
	s.Tick(now)
	checkBooks(t, s)
	require.Zero(t, s.peers["source"].uploads)
	offerFrom(t, s, "b", "source", now)
	require.Empty(t, s.Offer("a", now.Add(time.Second)), "a client ignores a second offer of a piece that it is fetching")
	require.Equal(t, []int32{0}, nums(s.Reoffer("a")))
}

func TestReceiversLeaseEndsAfterTheClientsOwnTimeOut(t *testing.T) {
	const limit = 10*time.Second + size/(64<<10)*time.Second + time.Second
	require.Equal(t, limit, clientTimeout(size))
	for name, usual := range map[string]time.Duration{"of unknown": 0, "of a short": time.Millisecond, "of a long": time.Hour} {
		t.Run(name+" usual time", func(t *testing.T) {
			s := newSwarm(t, 1, "a")
			s.copies[0].pieceTime = smoothed(usual)
			require.Len(t, s.Offer("a", start), 1)
			s.Tick(start.Add(limit))
			require.Empty(t, s.Offer("a", start.Add(limit)))
			require.Contains(t, s.peers["a"].running, int32(0))
			now := start.Add(limit + time.Millisecond)
			s.Tick(now)
			checkBooks(t, s)
			require.Empty(t, s.peers["a"].running)
			require.Len(t, s.Offer("a", now), 1)
		})
	}
}

func TestTransferIsOverdueAfterFiveTimesTheUsualTimeOfAPiece(t *testing.T) {
	for usual, patience := range map[time.Duration]time.Duration{
		0: 18 * time.Second, 10 * time.Millisecond: 3 * time.Second, 2 * time.Second: 10 * time.Second, time.Minute: clientTimeout(size),
	} {
		s := newSwarm(t, 1, "source", "a")
		written(t, s, "source", start, 0)
		s.pieceTime = smoothed(usual)
		offerFrom(t, s, "a", "source", start)
		require.Equal(t, patience, s.peers["a"].running[0].due.Sub(start), "usual time %s", usual)
	}
}

// A receiver that completes nothing meanwhile may be the slow side itself.
func TestOverdueTransferIsTheSourcesFaultOnlyIfTheReceiverCompletesOthers(t *testing.T) {
	for name, failures := range map[string]int{"completes others": 1, "completes nothing": 0} {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, 2, "source", "a")
			written(t, s, "source", start, 0)
			require.Len(t, s.Offer("a", start), 2, "piece 0 from the source, piece 1 from the CDN")
			if failures > 0 {
				written(t, s, "a", start.Add(time.Second), 1)
			}
			s.Tick(start.Add(time.Minute))
			require.Equal(t, overdue, s.peers["a"].running[0].state)
			require.Equal(t, failures, s.peers["source"].uploadFailures)
		})
	}
}

func TestPieceThatArrivesAfterItWasOverdueCounts(t *testing.T) {
	s := newSwarm(t, 1, "a", "b")
	require.Len(t, s.Offer("a", start), 1)
	now := start.Add(time.Minute)
	s.Tick(now)
	require.Len(t, s.Offer("b", now), 1)
	written(t, s, "a", now, 0)
	require.True(t, s.Finished("a"))
	checkBooks(t, s)
}

// Slots are few and peers many, and they ask in random order.
func TestNoPeerStarvesWhenSlotsAreFew(t *testing.T) {
	const peers = 200
	m := simulate(t, 50, peers, 1)
	m.s.limits.Up = 1
	for i := range 150 { // 15 s
		m.step(t)
		if i%50 == 0 {
			checkBooks(t, m.s)
		}
	}
	for _, id := range m.ids {
		require.Positive(t, m.given[id], "peer %s has received no piece", id)
	}
	for steps := 0; m.s.Unfinished() > 0; steps++ {
		require.Less(t, steps, 1000)
		m.step(t)
	}
}

func TestTaskHasOneTransferOfACDNThatOthersUseUp(t *testing.T) {
	s := newSwarm(t, 4, "a")
	sharesOf(s).Grant("cdn", 2)
	other := sharesOf(s).NewTask()
	for other.Take("cdn", start) {
	}
	require.Len(t, s.Offer("a", start), 1)
}

func TestPeerThatPassesANearSourceTakesTheLeastBusyOfEquallyNearOnes(t *testing.T) {
	s := newSwarm(t, 3, "busy", "idle", "a", "b")
	prove(s, "busy", "idle")
	written(t, s, "busy", start, 0, 1, 2)
	require.Len(t, s.Offer("a", start), 3)
	written(t, s, "idle", start, 0, 1, 2)
	for _, o := range s.Offer("b", start) {
		require.Equal(t, "idle", o.SourceID)
	}
}

func TestPeerThatNeverReportsKeepsOnlyItsOwnSlots(t *testing.T) {
	m := simulate(t, 30, 8, 4)
	silent := m.ids[0]
	m.arrives = func(id string, _ Offer) bool { return id != silent }
	for steps := 0; m.s.Unfinished() > 1; steps++ {
		require.Less(t, steps, 1500)
		m.step(t)
		require.LessOrEqual(t, m.s.peers[silent].active, m.s.limits.Down)
	}
	require.False(t, m.s.Finished(silent))
	checkBooks(t, m.s)
}

func TestAChoiceLooksAtAConstantNumberOfPiecesAndHolders(t *testing.T) {
	const most = freshLooked + 2*(piecesLooked+8)
	m := simulate(t, 1000, 100, 8)
	for range 20 {
		for _, id := range m.ids {
			before := m.s.work
			m.s.Offer(id, m.now)
			if m.s.work.Choices == before.Choices {
				continue
			}
			require.LessOrEqual(t, m.s.work.Pieces-before.Pieces, most)
			require.LessOrEqual(t, m.s.work.Holders-before.Holders, most*holdersLooked)
			require.NoError(t, m.s.Restarted(id))
		}
		m.step(t)
	}
}
