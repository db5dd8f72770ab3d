package replication

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

const size = 4 << 20

var start = time.Unix(1_700_000_000, 0)

func emptySwarm() *swarm.Swarm {
	return swarm.New(swarm.Limits{Up: 5, Down: 4}, capacity.NewShares().NewTask(), rand.New(rand.NewPCG(1, 2)))
}

func newSwarm(t *testing.T, pieces int, peers ...string) *swarm.Swarm {
	t.Helper()
	s := emptySwarm()
	s.SetCopy(swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", IP: "127.0.0.1", Port: 8001, Owner: true})
	require.NoError(t, s.SetFacts("cdn", swarm.Facts{Length: int64(pieces) * (size - 5), PieceSize: size}))
	for num := range int32(pieces) {
		require.NoError(t, s.Landed("cdn", num, md5Of(num), size))
	}
	require.NoError(t, s.SetResult("cdn", swarm.Result{MD5: "m", Length: int64(pieces) * (size - 5), PieceCount: int32(pieces)}))
	for _, id := range peers {
		s.AddPeer(peerInfo(id), start)
	}
	return s
}

func md5Of(num int32) string { return fmt.Sprintf("%032x", num) }

func peerInfo(id string) swarm.PeerInfo {
	return swarm.PeerInfo{ID: id, IP: "127.0.1.1", Port: 20000, Path: "/peer/file/" + id}
}

// restored returns a swarm that is restored from the given updates, via a standby.
func restored(t *testing.T, updates ...swarm.Update) *swarm.Swarm {
	t.Helper()
	s := emptySwarm()
	s.Restore(restoredFrom(t, updates...), start)
	return s
}

// serving returns the pieces that peers serve, by peer id.
func serving(s *swarm.Swarm) map[string][]int32 {
	list := make(map[string][]int32)
	for _, id := range s.Sources() {
		h, _ := s.Holding(id)
		list[id] = h.Pieces
	}
	return list
}

func TestRestoredSwarmOffersThePiecesThatPeersHad(t *testing.T) {
	s := newSwarm(t, 3, "whole", "half", "left")
	first := s.Changes(false)
	for num := range int32(3) {
		require.NoError(t, s.Written("whole", num, size, start))
	}
	require.NoError(t, s.Written("half", 0, size, start))
	require.NoError(t, s.SemiSuccess("half", 1, size, start))
	require.NoError(t, s.Down("left", start))
	require.True(t, s.Changed())
	again := restored(t, first, s.Changes(false))
	require.False(t, s.Changed())

	require.True(t, again.VersionInUse())
	require.True(t, again.Finished("whole"), "the result is known")
	offers := again.Offer("half", start)
	require.Len(t, offers, 1, "the pieces that it has are not offered again")
	require.EqualValues(t, 2, offers[0].Num)
	require.Equal(t, "whole", offers[0].SourceID, "the piece is offered without a CDN copy")
	require.Equal(t, md5Of(2), offers[0].MD5)
	again.AddPeer(peerInfo("new"), start)
	for _, o := range again.Offer("new", start) {
		if o.Num > 0 {
			require.Equal(t, "whole", o.SourceID, "neither a peer that has left nor a piece that is being written is offered")
		}
	}
	again.Tick(start.Add(10 * time.Second))
	require.Equal(t, []int32{0, 1}, serving(again)["half"], "the report of the written piece may have been lost with the former scheduler")
}

// Pieces are withdrawn because one was wrong, because the file is gone, or because the
// peer has left.
func TestRestoredSwarmOffersNoWithdrawnPieces(t *testing.T) {
	s := newSwarm(t, 1, "wrong", "gone", "left", "p1", "p2")
	for _, id := range []string{"wrong", "gone", "left"} {
		require.NoError(t, s.Written(id, 0, size, start))
	}
	first := s.Changes(true)
	require.NoError(t, s.Down("left", start))
	for i, num := range []int32{0, -1} {
		reporter := fmt.Sprint("p", 1+i)
		s.Lost(reporter, s.Offer(reporter, start)[0].SourceID, num)
	}
	again := restored(t, first, s.Changes(false))
	again.Tick(start.Add(10 * time.Second))
	require.Empty(t, serving(again))
	require.True(t, again.Finished("wrong"), "it still has the piece")
	require.True(t, again.VersionInUse())
}

func TestRestoredSwarmAcceptsOnlyCopiesOfItsVersion(t *testing.T) {
	s := newSwarm(t, 2, "p")
	require.NoError(t, s.Written("p", 0, size, start))
	again := restored(t, s.Changes(true))
	again.SetCopy(swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", Owner: true})
	facts, _ := s.Facts()
	require.NoError(t, again.SetFacts("cdn", facts))
	for num := range int32(2) {
		require.NoError(t, again.Landed("cdn", num, md5Of(num), size))
	}
	result, _ := s.Result()
	require.NoError(t, again.SetResult("cdn", result))
	require.ErrorIs(t, again.Landed("cdn", 1, strings.Repeat("7", 32), size), swarm.ErrConflict, "a piece of another version")
	require.True(t, again.Offer("p", start)[0].FromCDN)
}

func TestAppliedChangesEqualAFullUpdate(t *testing.T) {
	for seed := range uint64(10) {
		random := rand.New(rand.NewPCG(seed, 0))
		const pieces = 700
		s := newSwarm(t, pieces)
		store, err := NewStandbyStore(prometheus.NewRegistry())
		require.NoError(t, err)
		applyUpdate(t, store, s.Changes(true))
		now, partial := start, 0
		for range 60 {
			for range random.IntN(30) {
				now = now.Add(time.Duration(random.IntN(500)) * time.Millisecond)
				applyRandomEvent(t, s, random, fmt.Sprint(random.IntN(8)), random.Int32N(pieces), now)
			}
			changes := s.Changes(false)
			for range 1 + random.IntN(2) {
				applyUpdate(t, store, changes)
			}
			for _, p := range changes.Peers {
				if p.Partial {
					partial++
				}
			}
			state, _ := store.Get("id")
			require.Equal(t, trimmed(s.Changes(true)), trimmed(state.Update))
		}
		require.NotZero(t, partial)
	}
}

// applyRandomEvent applies a random event to a peer.
func applyRandomEvent(t *testing.T, s *swarm.Swarm, random *rand.Rand, id string, num int32, now time.Time) {
	t.Helper()
	var err error
	switch random.IntN(14) {
	case 0:
		s.AddPeer(peerInfo(id), now)
	case 1:
		err = s.Down(id, now)
	case 2:
		for _, o := range s.Offer(id, now) {
			if random.IntN(4) == 0 {
				o.Num = -1 // all pieces of the source
			}
			s.Lost(id, o.SourceID, o.Num)
		}
	case 3:
		s.Expire(now.Add(-time.Second), now.Add(-10*time.Minute))
	case 4:
		s.Tick(now)
	case 5:
		s.Offer(id, now)
	case 6:
		err = s.Seen(id, now)
	case 7, 8, 9:
		err = s.SemiSuccess(id, num, size, now)
	default:
		err = s.Written(id, num, size, now)
	}
	if err != nil {
		require.ErrorIs(t, err, swarm.ErrNoPeer)
	}
}

// trimmed returns the peers of an update, sorted, and with bit sets without trailing
// zero words.
func trimmed(u swarm.Update) []swarm.PeerUpdate {
	list := append([]swarm.PeerUpdate{}, sorted(u).Peers...)
	for i := range list {
		p := &list[i]
		for _, set := range []*[]uint64{&p.Have, &p.Serves, &p.Writing} {
			for len(*set) > 0 && (*set)[len(*set)-1] == 0 {
				*set = (*set)[:len(*set)-1]
			}
			if len(*set) == 0 {
				*set = nil
			}
		}
	}
	return list
}

func TestSizeOfAnUpdateDoesNotDependOnTheSizeOfTheFile(t *testing.T) {
	const pieces = 70_000
	s := newSwarm(t, pieces, "p")
	for num := range int32(pieces) {
		require.NoError(t, s.Written("p", num, size, start))
	}
	s.AddPeer(peerInfo("q"), start)
	offered := s.Offer("q", start)[0]
	s.Changes(true)
	s.Lost("q", "p", offered.Num)
	list := splitUpdate("id", header{}, s.Changes(false))
	require.Len(t, list, 1)
	require.Less(t, proto.Size(list[0].TaskMemory), 200)
}

func TestRestoredTaskExcludesOutdatedPeers(t *testing.T) {
	newTask := func(prepare func(*task.Task)) *task.Task {
		stats, err := task.NewStats(prometheus.NewRegistry())
		require.NoError(t, err)
		created := task.New("id", "u", task.Deps{
			Log: zap.NewNop(), Limits: swarm.Limits{Up: 5, Down: 4}, Capacity: capacity.NewShares(), Stats: stats,
		})
		prepare(created)
		ctx, cancel := context.WithCancel(t.Context())
		var work sync.WaitGroup
		work.Go(func() { created.Run(ctx) })
		t.Cleanup(func() {
			cancel()
			work.Wait()
		})
		return created
	}
	ctx := t.Context()
	old := newTask(func(created *task.Task) { created.ExcludePeers(map[string]struct{}{"outdated": {}}) })
	require.NoError(t, old.Attach(ctx, swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", Owner: true}))
	require.NoError(t, old.Facts(ctx, "cdn", swarm.Facts{Length: size - 5, PieceSize: size}))
	first, err := old.Changes(ctx, true)
	require.NoError(t, err)
	_, err = old.Register(ctx, peerInfo("p"))
	require.NoError(t, err)
	changes, err := old.Changes(ctx, false)
	require.NoError(t, err)

	again := newTask(func(created *task.Task) { created.Restore(restoredFrom(t, first, changes)) })
	_, err = again.Register(ctx, peerInfo("outdated"))
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
	_, err = again.Register(ctx, peerInfo("p"))
	require.NoError(t, err)
}
