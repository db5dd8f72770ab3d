package follower

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

func lost(owner string) func(*registryv1.ResolveTaskRequest) bool {
	return func(r *registryv1.ResolveTaskRequest) bool { return r.GetLostOwner() == owner }
}

func (w *world) takeoversFor(cause string) int {
	return int(testutil.ToFloat64(w.stats.takeovers.WithLabelValues(cause)))
}

func TestPeersAreServedByOwnerAndReplica(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(tells(0, 1), nil)
	w.cdns["b"].script(nil, has(0, 1))
	w.follow()
	w.peer("p")
	require.True(t, w.offered("p", "a").FromCDN)
	require.Equal(t, "cdnnode:127.0.0.2~"+taskID, w.offered("p", "b").SourceID)
	seeded := wait(t, w.cdns["a"].seeds, anything)
	require.EqualValues(t, 1, seeded.GetEpoch())
	require.Equal(t, []string{"b"}, seeded.GetCopies())
	require.True(t, seeded.GetStay())
	require.Nil(t, seeded.GetExpected(), "any version will do")
}

// What a replica has may be of an older version than the source's: the owner,
// who asks the source, has the first word.
func TestOwnerHasTheFirstWord(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	var said atomic.Bool
	w.cdns["a"].script(func(req *cdnv1.SeedRequest, send func(*cdnv1.SeedResponse)) error {
		<-time.After(ownerHeadStart / 5) // in which the replica is not to be asked
		said.Store(true)
		return tells(0)(req, send)
	}, nil)
	began := time.Now() // the owner is not asked before
	w.cdns["b"].script(nil, func(send func(*cdnv1.FollowResponse)) error {
		if !said.Load() && time.Since(began) < ownerHeadStart {
			t.Error("the replica was asked before the owner had said anything")
		}
		return has(0)(send)
	})
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	wait(t, w.cdns["b"].follows, anything)
}

func TestOwnerThatDiesIsReplacedAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(tells(0), nil)
	w.cdns["b"].script(tells(0, 1, 2, 3), nil)
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	require.NoError(t, w.task.Written(t.Context(), "p", 0, size))
	w.cdns["a"].kill()
	asked := wait(t, w.asked, lost("a"))
	require.EqualValues(t, 1, asked.GetLast().GetEpoch())
	seeded := wait(t, w.cdns["b"].seeds, anything)
	require.EqualValues(t, 2, seeded.GetEpoch())
	require.Equal(t, facts().GetLength(), seeded.GetExpected().GetLength(), "the peer has a piece of it")
	require.Equal(t, facts().GetEtag(), seeded.GetExpected().GetEtag())
	require.EqualValues(t, size, seeded.GetExpected().GetPieceSize())
	require.NotZero(t, w.offered("p", "b").Num)
}

func TestOwnerThatHangsIsWithdrawnBeforeAnyTransferTimesOut(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	w.cdns["a"].script(tells(0), nil)
	w.cdns["b"].script(tells(0), nil)
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	wake := w.cdns["a"].hang()
	wait(t, w.asked, lost("a"))
	require.EqualValues(t, 2, wait(t, w.cdns["b"].seeds, anything).GetEpoch())
	require.Equal(t, 1, w.takeoversFor(causeSuspect))
	w.offered("p", "b")
	wake()
	wait(t, w.cdns["a"].follows, anything) // it is a replica now
}

func TestTakeoverDoesNotGoToAnotherThatHangs(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	w.cdns["a"].script(tells(0), nil)
	w.cdns["c"].script(tells(0), nil)
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	wait(t, w.cdns["b"].follows, anything)
	defer w.cdns["b"].hang()()
	await(t, func() bool { return w.monitor.Suspect("b") })
	w.cdns["a"].kill()
	require.Contains(t, wait(t, w.asked, lost("a")).GetExcluded(), "b")
	wait(t, w.cdns["c"].seeds, anything)
	w.offered("p", "c")
	require.Empty(t, w.cdns["b"].seeds)
}

func TestBothDie(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	w.cdns["a"].script(tells(0), nil)
	w.cdns["c"].script(tells(0), nil)
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	w.cdns["a"].kill()
	w.cdns["b"].kill()
	w.offered("p", "c")
}

func TestStreamThatBreaksAtAnInstanceThatIsThereIsOpenedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error {
		return rpcerr.New(codes.Unavailable, "", "something between")
	}, nil)
	w.follow()
	for range 3 {
		wait(t, w.cdns["a"].seeds, anything)
	}
	w.cdns["a"].script(tells(0), nil)
	w.peer("p")
	w.offered("p", "a")
	require.Zero(t, w.takeoversFor(causeStream))
	require.Empty(t, w.cdns["b"].seeds)
}

func TestOwnerThatHearsOfAnotherIsBelieved(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error {
		w.answers(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
			return w.record(7, "b", "a"), nil
		})
		return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "b owns it")
	}, has(0, 1))
	w.cdns["b"].script(tells(0, 1), nil)
	w.follow()
	w.peer("p")
	require.EqualValues(t, 7, wait(t, w.cdns["b"].seeds, anything).GetEpoch())
	w.offered("p", "b")
	w.offered("p", "a")
	for len(w.asked) > 0 {
		require.Empty(t, (<-w.asked).GetLostOwner(), "nobody is lost")
	}
}

func refuses(err error) func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error {
	return func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error { return err }
}

func TestFullDiskGoesElsewhereAsLongAsThereIsAnywhere(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	w.cdns["a"].script(refuses(rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full")), nil)
	w.cdns["b"].script(refuses(rpcerr.New(codes.Unavailable, rpcerr.DiskFailed, "broken")), nil)
	w.cdns["c"].script(refuses(rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full, too")), nil)
	w.follow()
	err := wait(t, w.ended, anything)
	require.Equal(t, rpcerr.DiskFull, rpcerr.ReasonOf(err))
	require.Equal(t, 3, w.takeoversFor(causeDisk))
	require.Equal(t, []string{"a", "b", "c"}, wait(t, w.asked, lost("c")).GetExcluded())
}

func TestWhatOneSaysOfTheSourceIsAskedOfOneMore(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reason rpcerr.Reason
		seeds  int
	}{
		"unreachable": {rpcerr.SourceUnreachable, 2},
		"broken":      {rpcerr.SourceBroken, 2},
		"not there":   {rpcerr.SourceNotFound, 1},
		"forbidden":   {rpcerr.SourceAuthRequired, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "a", "b", "c")
			for _, cdn := range w.cdns {
				cdn.script(refuses(rpcerr.New(codes.Unavailable, c.reason, "says the source")), nil)
			}
			w.follow()
			require.Equal(t, c.reason, rpcerr.ReasonOf(wait(t, w.ended, anything)))
			seeds := 0
			for _, cdn := range w.cdns {
				seeds += len(cdn.seeds)
			}
			require.Equal(t, c.seeds, seeds)
		})
	}
}

func TestSecondOpinionMayBeBetter(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(refuses(rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, "no route")), nil)
	w.cdns["b"].script(tells(0), nil)
	w.follow()
	w.peer("p")
	w.offered("p", "b")
	require.Equal(t, 1, w.takeoversFor(causeSecondOpinion))
}

// What another would find again is not fetched by another.
func TestFinalVerdictNeedsNoSecondOpinion(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(refuses(rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "not of that MD5").AsFinal()), nil)
	w.cdns["b"].script(tells(0), nil)
	w.follow()
	err := wait(t, w.ended, anything)
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
	require.Zero(t, w.takeoversFor(causeSecondOpinion))
}

func TestSourceThatIsNotWhatPeersHaveEndsTheGeneration(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b", "c")
	w.cdns["a"].script(tells(0), nil)
	changed := refuses(rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "changed"))
	w.cdns["b"].script(changed, nil)
	w.cdns["c"].script(changed, nil)
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	w.cdns["a"].kill()
	err := wait(t, w.ended, anything)
	require.ErrorIs(t, err, swarm.ErrConflict, "so that the next who registers begins anew")
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
}

func TestReplicaThatLiesIsDoneWithout(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(tells(0, 1), nil)
	told := make(chan struct{}, 1)
	w.cdns["b"].script(nil, func(send func(*cdnv1.FollowResponse)) error {
		<-told
		_ = has()(send)
		send(&cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{Piece: &cdnv1.Piece{Num: 0, Md5: md5Of(9), Length: size}}})
		return nil
	})
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	told <- struct{}{}
	wait(t, w.cdns["b"].left, anything)
	await(t, func() bool { return len(w.copies()) == 1 })
	w.offered("p", "a")
	require.Empty(t, w.ended)
	require.Len(t, w.cdns["b"].follows, 1)
}

// await waits for a condition.
func await(t *testing.T, f func() bool) {
	t.Helper()
	require.Eventually(t, f, patience, 5*time.Millisecond)
}

// whole makes a Seed script that tells everything.
func whole(req *cdnv1.SeedRequest, send func(*cdnv1.SeedResponse)) error {
	_ = tells(0, 1, 2, 3)(req, send)
	send(&cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Result{
		Result: &cdnv1.SeedResult{Md5: "m", Length: facts().GetLength(), PieceCount: pieces},
	}})
	return nil
}

// finish has a peer report everything.
func (w *world) finish(id string) {
	w.t.Helper()
	await(w.t, func() bool {
		need, err := w.task.Need(w.t.Context())
		return err == nil && need.Whole
	})
	for num := range int32(pieces) {
		require.NoError(w.t, w.task.Written(w.t.Context(), id, num, size))
	}
}

func TestVersionThatIsBeingFetchedIsKeptByWhoComesAnew(t *testing.T) {
	t.Parallel()
	for name, length := range map[string]int64{"known": facts().GetLength(), "not known yet": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "a")
			record := w.record(5, "a")
			record.Record.Status, record.Record.PieceSize = registryv1.TaskStatus_TASK_STATUS_RUNNING, size
			record.Record.Source = &registryv1.SourceIdentity{Length: length, Etag: "e"}
			w.answers(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) { return record, nil })
			w.follow()
			seeded := wait(t, w.cdns["a"].seeds, anything)
			require.Equal(t, length >= 0, seeded.GetExpected() != nil)
			require.Equal(t, length >= 0, seeded.GetExpected().GetEtag() == "e")
		})
	}
}

func TestNobodyFetchesAgainWhatNobodyLacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(whole, nil)
	order := w.record(2, "b")
	w.answers(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		if r.GetLostOwner() == "" {
			return w.record(1, "a"), nil
		}
		return order, nil
	})
	w.follow()
	w.peer("p")
	w.finish("p")
	w.cdns["a"].kill()
	require.ErrorIs(t, wait(t, w.ended, anything), errNotNeeded)
	require.Empty(t, w.cdns["b"].seeds)
}

func TestCopyThatIsDeletedIsMadeAgainForThoseWhoLackIt(t *testing.T) {
	t.Parallel()
	for name, unfinished := range map[string]bool{"somebody": true, "nobody": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "a")
			gone := make(chan struct{})
			w.cdns["a"].script(func(req *cdnv1.SeedRequest, send func(*cdnv1.SeedResponse)) error {
				_ = whole(req, send)
				<-gone
				return rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "its files are gone")
			}, nil)
			w.follow()
			w.peer("p")
			w.finish("p")
			if unfinished {
				w.peer("late")
			}
			w.cdns["a"].script(whole, nil)
			close(gone)
			if unfinished {
				wait(t, w.cdns["a"].seeds, anything)
				wait(t, w.cdns["a"].seeds, anything)
				await(t, func() bool { return len(w.copies()) == 1 })
				return
			}
			require.Equal(t, rpcerr.TaskDeleted, rpcerr.ReasonOf(wait(t, w.ended, anything)))
		})
	}
}
