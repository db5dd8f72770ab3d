package swarm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// hold has the pulls of peers held and tries them.
func hold(s *Swarm, until, now time.Time, ids ...string) (offered map[string][]Offer) {
	for _, id := range ids {
		s.Hold(id, until)
	}
	return answerHeld(s, now)
}

// answerHeld tries the held pulls that may have an answer, and returns what those
// are offered that have one.
func answerHeld(s *Swarm, now time.Time) (offered map[string][]Offer) {
	offered = make(map[string][]Offer)
	for id, ok := s.Next(now); ok; id, ok = s.Next(now) {
		if id == "" {
			continue
		}
		if offers := s.Offer(id, now); len(offers) > 0 {
			offered[id] = offers
			s.Release(id)
		} else {
			s.Denied(id, now)
		}
	}
	return offered
}

var later = start.Add(time.Hour)

func TestFreeSlotIsGivenToTheHeldPullThatWaitsForLongest(t *testing.T) {
	s := newSwarm(t, 1, "source", "a", "b", "c", "d")
	written(t, s, "source", start, 0)
	require.Len(t, hold(s, later, start, "a", "b", "c", "d"), 1, "the source sends one piece at a time")
	for i, id := range []string{"b", "c", "d"} {
		require.NoError(t, s.Restarted([]string{"a", "b", "c"}[i]))
		offered := answerHeld(s, start)
		require.Len(t, offered, 1)
		require.Contains(t, offered, id)
		checkBooks(t, s)
	}
}

func TestPieceThatAPeerBeginsToServeIsOfferedToHeldPulls(t *testing.T) {
	s := newSwarm(t, 1, "first", "a")
	require.Len(t, s.Offer("first", start), 1)
	require.Empty(t, hold(s, later, start, "a"))
	require.NoError(t, s.SemiSuccess("first", 0, size, start))
	require.Empty(t, answerHeld(s, start), "it is still being written")
	written(t, s, "first", start, 0)
	require.Equal(t, "first", answerHeld(s, start)["a"][0].SourceID)
}

func TestPieceThatLandsIsOfferedToAHeldPull(t *testing.T) {
	s := emptySwarm()
	s.SetCopy(Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", Owner: true})
	require.NoError(t, s.SetFacts("cdn", Facts{Length: 2 * (size - 5), PieceSize: size}))
	addPeers(s, 2, start)
	require.Empty(t, hold(s, later, start, "p0", "p1"))
	require.NoError(t, s.Landed("cdn", 0, md5Of(0), size))
	require.Len(t, answerHeld(s, start), 1)
	require.NoError(t, s.Landed("cdn", 1, md5Of(1), size))
	require.Len(t, answerHeld(s, start), 1)
}

func TestHeldPullIsTriedWhenTheCDNHasCapacityAgain(t *testing.T) {
	s := newSwarm(t, 4, "a")
	sharesOf(s).Grant("cdn", 1)
	s.AddPeer(PeerInfo{ID: "b", IP: "127.0.9.9"}, start) // it serves nothing, so it needs the CDN
	require.Len(t, hold(s, later, start, "a"), 1)
	require.Empty(t, hold(s, later, start, "b"))
	sharesOf(s).Grant("cdn", wide)
	require.Empty(t, answerHeld(s, start))
	s.CapacityFreed()
	require.Len(t, answerHeld(s, start), 1)
}

func TestHeldPullIsTriedWhenTimeAllowsIt(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(s *Swarm)
		after   time.Duration
	}{
		"the fallback to the CDN is due": {func(*Swarm) {}, fallbackMax},
		"the CDN copy is not avoided any more": {func(s *Swarm) {
			s.limits.Down = 1
			p := s.peers["a"]
			p.waitingSince = start.Add(-time.Hour)
			p.recordCopyFailure(s.copies[0], start)
		}, cdnPause},
		"the pull is due": {func(s *Swarm) { s.DropCopy("cdn") }, 7 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, 1, "source", "other", "a")
			written(t, s, "source", start, 0)
			offerFrom(t, s, "other", "source", start)
			tt.prepare(s)
			require.Empty(t, hold(s, start.Add(7*time.Second), start, "a"))
			for _, after := range []time.Duration{tt.after - time.Millisecond, tt.after} {
				now := start.Add(after)
				s.Tick(now)
				s.held.cdnFreed = s.held.cdnFreed && after == tt.after // a tick looks at the CDN for some pulls besides
				_, found := s.Next(now)
				require.Equal(t, after == tt.after, found, "after %s", after)
			}
			checkBooks(t, s)
		})
	}
}

func TestHeldPullOfAFinishedPeerIsTriedWhenTheResultIsKnown(t *testing.T) {
	s := newSwarm(t, 1, "a")
	result := *s.result
	s.result = nil
	written(t, s, "a", start, 0)
	require.Empty(t, hold(s, later, start, "a"))
	require.NoError(t, s.SetResult("cdn", result))
	id, ok := s.Next(start)
	require.True(t, ok)
	require.Equal(t, "a", id)
	require.True(t, s.Finished(id))
}

// A migrant is offered what it may have already, so it may not use the slot.
func TestFreeSlotIsNotKeptForAMigrant(t *testing.T) {
	s := newSwarm(t, 1, "source", "other", "migrant", "resident")
	s.peers["migrant"].origin = migrant
	written(t, s, "source", start, 0)
	offerFrom(t, s, "other", "source", start)
	s.DropCopy("cdn")
	require.Empty(t, hold(s, later, start, "migrant", "resident"))
	require.NoError(t, s.Restarted("other"))
	offered := answerHeld(s, start)
	require.Len(t, offered, 1)
	require.Contains(t, offered, "resident")
}

func TestFreeSlotIsGivenToAnotherPullIfTheWokenOneEnds(t *testing.T) {
	for name, end := range map[string]func(s *Swarm, id string){
		"its caller has gone": func(s *Swarm, id string) { s.Release(id) },
		"its peer has left": func(s *Swarm, id string) {
			_ = s.Down(id, start)
		},
		"its peer has the piece": func(s *Swarm, id string) { _ = s.Written(id, 0, size, start) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSwarm(t, 1, "source", "other", "a", "b")
			written(t, s, "source", start, 0)
			offerFrom(t, s, "other", "source", start)
			s.DropCopy("cdn")
			require.Empty(t, hold(s, later, start, "a", "b"))
			require.NoError(t, s.Restarted("other"))
			id, ok := s.Next(start)
			require.True(t, ok)
			require.Equal(t, "a", id)
			end(s, id)
			if s.peers[id].waiter != nil {
				require.Empty(t, s.Offer(id, start))
				s.Denied(id, start)
			}
			require.Contains(t, answerHeld(s, start), "b")
			checkBooks(t, s)
		})
	}
}

func TestPullOfAPeerThatOnlyTakesFromCopiesIsTriedWhenTheLastCopyIsLost(t *testing.T) {
	s := newSwarm(t, 1, "source", "other", "a")
	written(t, s, "source", start, 0)
	offerFrom(t, s, "other", "source", start)
	s.peers["a"].cdnOnlyUntil = later
	s.peers["a"].recordCopyFailure(s.copies[0], start)
	require.Empty(t, hold(s, later, start, "a"))
	require.NoError(t, s.Restarted("other"))
	require.Empty(t, answerHeld(s, start))
	s.DropCopy("cdn")
	require.Contains(t, answerHeld(s, start), "a")
}

func TestPullsThatWaitForTheCDNsCapacityAreNotLookedAtWithEachTick(t *testing.T) {
	s := newSwarm(t, 4, "source", "other")
	for num := range int32(4) {
		written(t, s, "source", start, num)
	}
	offerFrom(t, s, "other", "source", start)
	sharesOf(s).Grant("cdn", 1)
	require.True(t, s.capacity.Take("cdn", start))
	var ids []string
	for i := range 500 {
		id := fmt.Sprint("p", i)
		s.AddPeer(peerInfo(id, i), start)
		ids = append(ids, id)
	}
	require.Empty(t, hold(s, later, start, ids...))
	now := start.Add(fallbackMax)
	s.Tick(now)
	require.Empty(t, answerHeld(s, now))
	require.Equal(t, 500, s.held.fallbackDue.Len())
	for range 20 {
		before := s.Work()
		now = now.Add(200 * time.Millisecond)
		s.Tick(now)
		require.Empty(t, answerHeld(s, now))
		require.LessOrEqual(t, s.Work().Choices-before.Choices, 2, "the demand is recorded, and no more")
	}
	sharesOf(s).Grant("cdn", wide)
	s.Tick(now)
	require.NotEmpty(t, answerHeld(s, now))
	s.capacity.Release("cdn")
	checkBooks(t, s)
}

func TestQueueThatIsNeverEmptyDoesNotGrow(t *testing.T) {
	var q fifo[int]
	q.push(0)
	for i := range 100_000 {
		q.push(i + 1)
		got, ok := q.pop()
		require.True(t, ok && got == i)
	}
	require.LessOrEqual(t, len(q.items), 3*fifoSlack)
}

func TestReleasedPullIsNotTried(t *testing.T) {
	s := newSwarm(t, 1, "source", "other", "a", "b")
	written(t, s, "source", start, 0)
	offerFrom(t, s, "other", "source", start)
	require.Empty(t, hold(s, later, start, "a"))
	s.Hold("b", later)
	s.Release("a")
	s.Release("b")
	require.NoError(t, s.Restarted("other"))
	require.Empty(t, answerHeld(s, start))
	require.Zero(t, s.held.retries.len())
	checkBooks(t, s)
}

// Reports, failures, departures and pulls come at random. A pull that stays held has
// no offer: it was tried after everything that could have given it one.
func TestNoHeldPullThatHasAnOfferIsLeft(t *testing.T) {
	for seed := range uint64(40) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			const pieces = 12
			random := rand.New(rand.NewPCG(seed, 1))
			s := newSwarm(t, pieces)
			sharesOf(s).Grant("cdn", 1+random.IntN(4))
			s.landedAtPeers = random.IntN(3)
			ids, now := addPeers(s, 12, start), start
			held := make(map[string]bool)
			for step := range 400 {
				id := ids[random.IntN(len(ids))]
				act(t, s, id, random, now)
				if random.IntN(3) == 0 && !s.peers[id].left {
					s.Hold(id, later)
					held[id] = true
				}
				if random.IntN(4) == 0 {
					now = now.Add(time.Duration(random.IntN(2000)) * time.Millisecond)
				}
				s.reviewed = time.Time{}
				s.Tick(now)
				for range 3 { // as many ticks may pass until the CDN's capacity is used
					s.CapacityFreed()
					for answered := range answerHeld(s, now) {
						delete(held, answered)
					}
				}
				if step%20 == 0 {
					checkBooks(t, s)
				}
				for id := range held {
					p := s.peers[id]
					since, tried := p.waitingSince, p.triedAt
					require.Empty(t, s.Offer(id, now), "step %d: the pull of %s is held", step, id)
					p.waitingSince, p.triedAt = since, tried
				}
			}
		})
	}
}

// act has one thing happen to a peer.
func act(t *testing.T, s *Swarm, id string, random *rand.Rand, now time.Time) {
	t.Helper()
	p := s.peers[id]
	running := p.inOrder()
	switch n := random.IntN(20); {
	case n == 0:
		require.NoError(t, s.Down(id, now))
	case n == 1:
		s.AddPeer(p.PeerInfo, now)
	case len(running) == 0:
		require.NoError(t, s.Seen(id, now))
	case n < 5:
		failed(t, s, id, running[0].num, sourceID(running[0]), now)
	case n < 7:
		require.NoError(t, s.Restarted(id))
	case n < 14:
		require.NoError(t, s.Seen(id, now))
		require.NoError(t, s.SemiSuccess(id, running[0].num, size, now))
		require.NoError(t, s.Written(id, running[0].num, size, now))
	default:
		require.NoError(t, s.Seen(id, now))
		require.NoError(t, s.SemiSuccess(id, running[0].num, size, now))
	}
}

// A thousand pulls are held. What a report costs must not depend on that.
func TestReportLooksAtAConstantNumberOfHeldPulls(t *testing.T) {
	s := newSwarm(t, 50)
	ids := addPeers(s, 1000, start)
	for num := range int32(50) {
		written(t, s, "p0", start, num)
	}
	hold(s, later, start, ids[1:]...)
	require.Greater(t, s.held.order.Len(), 900)
	for id := range s.peers {
		running := s.peers[id].inOrder()
		if len(running) == 0 {
			continue
		}
		before := s.Work()
		require.NoError(t, s.SemiSuccess(id, running[0].num, size, start))
		written(t, s, id, start, running[0].num)
		offered := answerHeld(s, start)
		after := s.Work()
		require.NotEmpty(t, offered)
		require.LessOrEqual(t, after.Waiters-before.Waiters, 10*waitersLooked)
		require.LessOrEqual(t, after.Choices-before.Choices, 3*len(offered)+8)
	}
}
