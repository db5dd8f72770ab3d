package swarm

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
)

const (
	size = 4 << 20
	// wide is the window of a CDN instance where the window is not the point.
	wide = 1000
)

var start = time.Unix(1_700_000_000, 0)

// shared is a task's part of the shares, which are at hand.
type shared struct {
	*capacity.Task
	shares *capacity.Shares
}

// emptySwarm returns a swarm without copies. Instances "cdn" and "r" have a wide window.
func emptySwarm() *Swarm {
	shares := capacity.NewShares()
	shares.Grant("cdn", wide)
	shares.Grant("r", wide)
	return New(Limits{Up: 5, Down: 4}, shared{shares.NewTask(), shares}, rand.New(rand.NewPCG(1, 2)))
}

// sharesOf returns the shares that a swarm's capacity is part of.
func sharesOf(s *Swarm) *capacity.Shares { return s.capacity.(shared).shares }

// inFlight returns how many transfers of an instance are taken from the capacity.
func inFlight(s *Swarm, instance string) int {
	n, _ := sharesOf(s).Demand(instance)
	return n
}

// newSwarm returns a swarm that has begun: it may use the CDN's whole window.
func newSwarm(t testing.TB, pieces int, peers ...string) *Swarm {
	t.Helper()
	s := emptySwarm()
	s.landedAtPeers = wide
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

// addPeers registers n peers with serving ports and returns their ids.
func addPeers(s *Swarm, n int, now time.Time) []string {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = fmt.Sprintf("p%d", i)
		s.AddPeer(peerInfo(ids[i], i), now)
	}
	return ids
}

func nums(offers []Offer) []int32 {
	var list []int32
	for _, o := range offers {
		list = append(list, o.Num)
	}
	return list
}

func written(t testing.TB, s *Swarm, id string, now time.Time, pieces ...int32) {
	t.Helper()
	for _, num := range pieces {
		require.NoError(t, s.Written(id, num, size, now))
	}
}

func failed(t testing.TB, s *Swarm, id string, num int32, from string, now time.Time) {
	t.Helper()
	_, err := s.Failed(id, num, size, from, now)
	require.NoError(t, err)
}

// prove makes sources of peers that send as many pieces at a time as a peer may.
func prove(s *Swarm, ids ...string) {
	for _, id := range ids {
		s.peers[id].source, s.peers[id].sent = proven, max(settledBytes/size, s.limits.Up)
		s.updateIdle(s.peers[id])
	}
}

// offerFrom returns the one piece that a peer is offered, which comes from source.
func offerFrom(t testing.TB, s *Swarm, id, source string, now time.Time) Offer {
	t.Helper()
	offers := s.Offer(id, now)
	require.Len(t, offers, 1, "offers to %s", id)
	require.Equal(t, source, offers[0].SourceID)
	return offers[0]
}

// checkBooks verifies that every transfer is counted at both of its ends and at
// its piece, and that the lists of pieces, holders, sources and held pulls agree with
// the peers.
func checkBooks(t testing.TB, s *Swarm) {
	t.Helper()
	transfers := checkTransfers(t, s)
	checkDeadlines(t, s, transfers)
	checkHolders(t, s)
	checkAvailability(t, s, transfers)
	checkPeerList(t, s)
	checkMaps(t, s)
	checkHeldPulls(t, s)
}

// checkMaps verifies that no peer has an empty map.
func checkMaps(t testing.TB, s *Swarm) {
	t.Helper()
	for _, p := range s.peers {
		for name, m := range map[string]any{
			"running": p.running, "sending": p.sending, "writing": p.writing, "avoids": p.avoids, "copyFailures": p.copyFailures,
		} {
			if v := reflect.ValueOf(m); !v.IsNil() {
				require.NotZero(t, v.Len(), "%s of %s", name, p.ID)
			}
		}
	}
}

func checkTransfers(t testing.TB, s *Swarm) map[*transfer]struct{} {
	t.Helper()
	all := make(map[*transfer]struct{})
	uploads, sending := make(map[*Peer]int), make(map[*Peer]int)
	cdn, cdnSending := make(map[*cdnCopy]int), make(map[*cdnCopy]int)
	for _, p := range s.peers {
		running, fromCDN := 0, 0
		for num, tr := range p.running {
			require.True(t, tr.num == num && tr.to == p && tr.state != ended, "piece %d at %s", num, p.ID)
			all[tr] = struct{}{}
			here := 0
			if tr.state == active {
				here = 1
			}
			running += here
			if tr.from != nil {
				require.Contains(t, tr.from.sending, tr)
				uploads[tr.from] += here
				sending[tr.from]++
				continue
			}
			require.Contains(t, tr.cdn.sending, tr)
			cdn[tr.cdn] += here
			cdnSending[tr.cdn]++
			fromCDN += here
		}
		require.Equal(t, running, p.active, "active transfers to %s", p.ID)
		require.LessOrEqual(t, p.active, s.limits.Down)
		require.Equal(t, fromCDN, p.fromCDN, "transfers to %s from the CDN", p.ID)
	}
	fromCDN := 0
	for _, p := range s.peers {
		fromCDN += p.fromCDN
		require.Equal(t, uploads[p], p.uploads, "uploads of %s", p.ID)
		require.Len(t, p.sending, sending[p], "transfers from %s", p.ID)
		require.LessOrEqual(t, p.uploads, s.limits.Up)
		delete(uploads, p)
	}
	require.Equal(t, fromCDN, s.fromCDN, "transfers from CDN copies")
	require.Empty(t, uploads, "no transfer may use a peer that has expired")
	for _, c := range s.copies {
		require.Equal(t, cdn[c], c.running, "pieces from %s", c.Instance)
		require.Len(t, c.sending, cdnSending[c], "pieces from %s", c.Instance)
		require.Equal(t, c.running, inFlight(s, c.Instance), "capacity taken from %s", c.Instance)
		delete(cdn, c)
	}
	require.Empty(t, cdn, "no transfer may use a dropped copy")
	return all
}

func checkDeadlines(t testing.TB, s *Swarm, transfers map[*transfer]struct{}) {
	t.Helper()
	require.Equal(t, len(transfers), s.deadlines.len())
	for _, tr := range s.deadlines.items {
		require.Contains(t, transfers, tr)
	}
	checkTimeline(t, &s.deadlines)
}

func checkTimeline[T timed](t testing.TB, l *timeline[T]) {
	t.Helper()
	for i, item := range l.items {
		require.Equal(t, i, *item.index())
		require.False(t, i > 0 && l.items.Less(i, (i-1)/2), "the heap is out of order at %d", i)
	}
}

// checkPeerList verifies the counts of peers and the lists of suspended and idle ones.
func checkPeerList(t testing.TB, s *Swarm) {
	t.Helper()
	require.Len(t, s.peerList.list, len(s.peers))
	unfinished, active, waits, suspendedPeers, idle := 0, 0, 0, 0, 0
	for i, p := range s.peerList.list {
		require.Same(t, p, s.peers[p.ID])
		require.Equal(t, i, p.counted.place)
		require.Equal(t, !p.left && !s.complete(p), p.counted.unfinished, "%s misses pieces", p.ID)
		for n, counts := range map[*int]bool{
			&unfinished: p.counted.unfinished, &active: p.counted.active, &waits: p.counted.waiting, &suspendedPeers: p.source == suspended,
		} {
			if counts {
				*n++
			}
		}
		if s.hasFreeSlot(p) {
			idle++
			require.Same(t, p, s.idle[p.idlePlace])
		}
	}
	require.Equal(t, []int{unfinished, active, waits}, []int{s.peerList.unfinished, s.peerList.active, s.peerList.waiting})
	require.Equal(t, suspendedPeers, s.suspended.len())
	checkTimeline(t, &s.suspended)
	require.Len(t, s.idle, idle)
}

// checkHeldPulls verifies that each held pull that was denied is in both lists.
func checkHeldPulls(t testing.TB, s *Swarm) {
	t.Helper()
	denied, due := 0, 0
	for _, p := range s.peers {
		if w := p.waiter; w != nil && w.place != nil {
			denied++
			require.Same(t, w, w.place.Value)
			require.True(t, w.state != waiting || w.retry != outside, "the pull of %s waits and has no time", p.ID)
			if w.duePlace != nil {
				due++
				require.Same(t, w, w.duePlace.Value)
			}
		}
	}
	require.Equal(t, denied, s.held.order.Len())
	require.Equal(t, due, s.held.fallbackDue.Len())
	checkTimeline(t, &s.held.retries)
}

// checkHolders verifies that exactly those peers are listed that serve a piece.
func checkHolders(t testing.TB, s *Swarm) {
	t.Helper()
	listed := 0
	for num, state := range s.pieces {
		for place, h := range state.holders {
			require.Same(t, h, s.peers[h.ID])
			require.True(t, h.mayServe() && h.serves.Test(uint(num)), "%s is a holder of piece %d", h.ID, num)
			require.EqualValues(t, place, h.places[num])
		}
		listed += len(state.holders)
	}
	serving, writing := 0, 0
	for _, p := range s.peers {
		here := 0
		for _, place := range p.places {
			if place != unlisted {
				here++
			}
		}
		require.Equal(t, here, p.listed, "pieces of %s that are listed", p.ID)
		if p.mayServe() {
			serving += int(p.serves.Count())
		}
		writing += len(p.writing)
	}
	require.Equal(t, serving, listed, "holders that are not listed")
	require.Equal(t, writing, s.writing)
}

func checkAvailability(t testing.TB, s *Swarm, transfers map[*transfer]struct{}) {
	t.Helper()
	toCome := make(map[int32]int32)
	for tr := range transfers {
		require.False(t, tr.counts && tr.state != active, "an overdue transfer is no copy to come")
		if tr.counts {
			toCome[tr.num]++
		}
	}
	for _, p := range s.peers {
		for num, w := range p.writing {
			if w.counts {
				toCome[num]++
			}
		}
	}
	a, landed, inLists := &s.available, 0, len(s.available.fresh)
	for i := range a.served {
		inLists += len(a.served[i])
		require.False(t, i < a.lowest && len(a.served[i]) > 0, "list %d is below the lowest", i)
	}
	for i, state := range s.pieces {
		num := int32(i)
		p := *a.at(num)
		require.EqualValues(t, len(state.holders), p.holders, "holders of piece %d", num)
		require.Equal(t, toCome[num], p.transfers, "copies to come of piece %d", num)
		require.Equal(t, state.md5 == "", p.stage == absent, "piece %d", num)
		switch p.stage {
		case absent:
			continue
		case fresh:
			require.Zero(t, p.holders+p.transfers, "piece %d is fresh", num)
			require.Equal(t, num, a.fresh[p.position])
			inLists--
		case underway:
			require.True(t, p.holders == 0 && p.transfers > 0, "piece %d is under way", num)
		case served:
			require.Positive(t, p.holders, "piece %d is served", num)
			require.Equal(t, min(p.holders+p.transfers, mostCopies), p.list)
			require.Equal(t, num, a.served[p.list][p.position])
			inLists--
		}
		landed++
	}
	require.Zero(t, inLists, "pieces that are twice in the lists")
	require.Equal(t, landed, s.landed)
}
