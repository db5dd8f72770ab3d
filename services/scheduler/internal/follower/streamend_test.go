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

func lostOwnerIs(owner string) func(*registryv1.ResolveTaskRequest) bool {
	return func(r *registryv1.ResolveTaskRequest) bool { return r.GetLostOwner() == owner }
}

func (w *testCluster) takeoversFor(cause string) int {
	return int(testutil.ToFloat64(w.stats.takeovers.WithLabelValues(cause)))
}

func TestPeersAreOfferedPiecesOfOwnerAndReplica(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(announces(0, 1), nil)
	w.cdns["b"].script(nil, followAnnounces(0, 1))
	w.follow()
	w.registerPeer("p")
	require.True(t, w.requireOffer("p", "a").FromCDN)
	require.Equal(t, "cdnnode:127.0.0.2~"+taskID, w.requireOffer("p", "b").SourceID)
	seeded := waitFor(t, w.cdns["a"].seeds, anyValue)
	require.EqualValues(t, 1, seeded.GetEpoch())
	require.Equal(t, []string{"b"}, seeded.GetCopies())
	require.True(t, seeded.GetStay())
	require.Nil(t, seeded.GetExpected(), "no peer has pieces")
}

// A replica may have an older version than the source. The owner, which asks the
// source, must announce the current version first.
func TestReplicaIsFollowedOnlyAfterTheOwnersHeadStart(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	var said atomic.Bool
	w.cdns["a"].script(func(req *cdnv1.SeedRequest, send func(*cdnv1.SeedResponse)) error {
		<-time.After(ownerHeadStart / 5) // the replica must not be followed during this time
		said.Store(true)
		return announces(0)(req, send)
	}, nil)
	began := time.Now() // a lower bound of the time at which the owner's stream is opened
	w.cdns["b"].script(nil, func(send func(*cdnv1.FollowResponse)) error {
		if !said.Load() && time.Since(began) < ownerHeadStart {
			t.Error("the replica was followed before the owner's first event")
		}
		return followAnnounces(0)(send)
	})
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	waitFor(t, w.cdns["b"].follows, anyValue)
}

func TestDeadOwnerIsReplaced(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(announces(0), nil)
	w.cdns["b"].script(announces(0, 1, 2, 3), nil)
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	require.NoError(t, w.task.Written(t.Context(), "p", 0, size))
	w.cdns["a"].kill()
	request := waitFor(t, w.resolveRequests, lostOwnerIs("a"))
	require.EqualValues(t, 1, request.GetLast().GetEpoch())
	seeded := waitFor(t, w.cdns["b"].seeds, anyValue)
	require.EqualValues(t, 2, seeded.GetEpoch())
	require.Equal(t, facts().GetLength(), seeded.GetExpected().GetLength(), "a peer has a piece of this version")
	require.Equal(t, facts().GetEtag(), seeded.GetExpected().GetEtag())
	require.EqualValues(t, size, seeded.GetExpected().GetPieceSize())
	require.NotZero(t, w.requireOffer("p", "b").Num)
}

func TestHangingOwnerIsWithdrawnAndReplaced(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b", "c")
	w.cdns["a"].script(announces(0), nil)
	w.cdns["b"].script(announces(0), nil)
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	resume := w.cdns["a"].hang()
	waitFor(t, w.resolveRequests, lostOwnerIs("a"))
	require.EqualValues(t, 2, waitFor(t, w.cdns["b"].seeds, anyValue).GetEpoch())
	require.Equal(t, 1, w.takeoversFor(causeSuspect))
	w.requireOffer("p", "b")
	resume()
	waitFor(t, w.cdns["a"].follows, anyValue) // it has become a replica
}

func TestTakeoverExcludesASuspectReplica(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b", "c")
	w.cdns["a"].script(announces(0), nil)
	w.cdns["c"].script(announces(0), nil)
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	waitFor(t, w.cdns["b"].follows, anyValue)
	defer w.cdns["b"].hang()()
	eventually(t, func() bool { return w.monitor.Suspect("b") })
	w.cdns["a"].kill()
	require.Contains(t, waitFor(t, w.resolveRequests, lostOwnerIs("a")).GetExcluded(), "b")
	waitFor(t, w.cdns["c"].seeds, anyValue)
	w.requireOffer("p", "c")
	require.Empty(t, w.cdns["b"].seeds)
}

func TestThirdCDNTakesOverWhenOwnerAndReplicaDie(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b", "c")
	w.cdns["a"].script(announces(0), nil)
	w.cdns["c"].script(announces(0), nil)
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	w.cdns["a"].kill()
	w.cdns["b"].kill()
	w.requireOffer("p", "c")
}

func TestBrokenStreamOfALiveOwnerIsOpenedAgain(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error {
		return rpcerr.New(codes.Unavailable, "", "connection lost")
	}, nil)
	w.follow()
	for range 3 {
		waitFor(t, w.cdns["a"].seeds, anyValue)
	}
	w.cdns["a"].script(announces(0), nil)
	w.registerPeer("p")
	w.requireOffer("p", "a")
	require.Zero(t, w.takeoversFor(causeStream))
	require.Empty(t, w.cdns["b"].seeds)
}

func TestStaleEpochMakesTheFollowerResolveAgain(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error {
		w.setResolve(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
			return w.record(7, "b", "a"), nil
		})
		return rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "b owns it")
	}, followAnnounces(0, 1))
	w.cdns["b"].script(announces(0, 1), nil)
	w.follow()
	w.registerPeer("p")
	require.EqualValues(t, 7, waitFor(t, w.cdns["b"].seeds, anyValue).GetEpoch())
	w.requireOffer("p", "b")
	w.requireOffer("p", "a")
	for len(w.resolveRequests) > 0 {
		require.Empty(t, (<-w.resolveRequests).GetLostOwner(), "no owner is lost")
	}
}

func refuseWith(err error) func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error {
	return func(*cdnv1.SeedRequest, func(*cdnv1.SeedResponse)) error { return err }
}

func TestDiskFailureMovesTheTaskUntilNoCDNIsLeft(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b", "c")
	w.cdns["a"].script(refuseWith(rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full")), nil)
	w.cdns["b"].script(refuseWith(rpcerr.New(codes.Unavailable, rpcerr.DiskFailed, "broken")), nil)
	w.cdns["c"].script(refuseWith(rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full, too")), nil)
	w.follow()
	err := waitFor(t, w.ended, anyValue)
	require.Equal(t, rpcerr.DiskFull, rpcerr.ReasonOf(err))
	require.Equal(t, 3, w.takeoversFor(causeDisk))
	require.Equal(t, []string{"a", "b", "c"}, waitFor(t, w.resolveRequests, lostOwnerIs("c")).GetExcluded())
}

func TestUnreadableSourceIsTriedByOneMoreCDN(t *testing.T) {
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
			w := newTestCluster(t, "a", "b", "c")
			for _, cdn := range w.cdns {
				cdn.script(refuseWith(rpcerr.New(codes.Unavailable, c.reason, "says the source")), nil)
			}
			w.follow()
			require.Equal(t, c.reason, rpcerr.ReasonOf(waitFor(t, w.ended, anyValue)))
			seeds := 0
			for _, cdn := range w.cdns {
				seeds += len(cdn.seeds)
			}
			require.Equal(t, c.seeds, seeds)
		})
	}
}

func TestSecondCDNServesASourceThatTheFirstCannotReach(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(refuseWith(rpcerr.New(codes.Unavailable, rpcerr.SourceUnreachable, "no route")), nil)
	w.cdns["b"].script(announces(0), nil)
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "b")
	require.Equal(t, 1, w.takeoversFor(causeSecondOpinion))
}

func TestFinalSourceErrorIsNotTriedByAnotherCDN(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(refuseWith(rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "not of that MD5").AsFinal()), nil)
	w.cdns["b"].script(announces(0), nil)
	w.follow()
	err := waitFor(t, w.ended, anyValue)
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
	require.Zero(t, w.takeoversFor(causeSecondOpinion))
}

func TestChangedSourceFailsTheTaskWithConflict(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b", "c")
	w.cdns["a"].script(announces(0), nil)
	changed := refuseWith(rpcerr.New(codes.DataLoss, rpcerr.SourceBroken, "changed"))
	w.cdns["b"].script(changed, nil)
	w.cdns["c"].script(changed, nil)
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	w.cdns["a"].kill()
	err := waitFor(t, w.ended, anyValue)
	require.ErrorIs(t, err, swarm.ErrConflict, "so that the next registration starts from scratch")
	require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
}

func TestReplicaOfAnotherVersionIsExcluded(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(announces(0, 1), nil)
	attached := make(chan struct{}, 1)
	w.cdns["b"].script(nil, func(send func(*cdnv1.FollowResponse)) error {
		<-attached
		_ = followAnnounces()(send)
		send(&cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{Piece: &cdnv1.Piece{Num: 0, Md5: md5Of(9), Length: size}}})
		return nil
	})
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	attached <- struct{}{}
	waitFor(t, w.cdns["b"].followsEnded, anyValue)
	eventually(t, func() bool { return len(w.copies()) == 1 })
	w.requireOffer("p", "a")
	require.Empty(t, w.ended)
	require.Len(t, w.cdns["b"].follows, 1)
}

// eventually waits for a condition.
func eventually(t *testing.T, f func() bool) {
	t.Helper()
	require.Eventually(t, f, testTimeout, 5*time.Millisecond)
}

// announcesAll is a Seed script that sends all events of a complete copy.
func announcesAll(req *cdnv1.SeedRequest, send func(*cdnv1.SeedResponse)) error {
	_ = announces(0, 1, 2, 3)(req, send)
	send(&cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Result{
		Result: &cdnv1.SeedResult{Md5: "m", Length: facts().GetLength(), PieceCount: pieces},
	}})
	return nil
}

// reportAllPieces makes a peer report all pieces.
func (w *testCluster) reportAllPieces(id string) {
	w.t.Helper()
	eventually(w.t, func() bool {
		need, err := w.task.Need(w.t.Context())
		return err == nil && need.Whole
	})
	for num := range int32(pieces) {
		require.NoError(w.t, w.task.Written(w.t.Context(), id, num, size))
	}
}

func TestSeedExpectsTheVersionOfARunningRecord(t *testing.T) {
	t.Parallel()
	for name, length := range map[string]int64{"known": facts().GetLength(), "not known yet": -1} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTestCluster(t, "a")
			record := w.record(5, "a")
			record.Record.Status, record.Record.PieceSize = registryv1.TaskStatus_TASK_STATUS_RUNNING, size
			record.Record.Source = &registryv1.SourceIdentity{Length: length, Etag: "e"}
			w.setResolve(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) { return record, nil })
			w.follow()
			seeded := waitFor(t, w.cdns["a"].seeds, anyValue)
			require.Equal(t, length >= 0, seeded.GetExpected() != nil)
			require.Equal(t, length >= 0, seeded.GetExpected().GetEtag() == "e")
		})
	}
}

func TestCompleteTaskIsNotSeededAgainWhenNoPeerNeedsIt(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(announcesAll, nil)
	order := w.record(2, "b")
	w.setResolve(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		if r.GetLostOwner() == "" {
			return w.record(1, "a"), nil
		}
		return order, nil
	})
	w.follow()
	w.registerPeer("p")
	w.reportAllPieces("p")
	w.cdns["a"].kill()
	require.ErrorIs(t, waitFor(t, w.ended, anyValue), errNotNeeded)
	require.Empty(t, w.cdns["b"].seeds)
}

func TestDeletedCopyIsSeededAgainOnlyForUnfinishedPeers(t *testing.T) {
	t.Parallel()
	for name, unfinished := range map[string]bool{"an unfinished peer": true, "no unfinished peer": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTestCluster(t, "a")
			gone := make(chan struct{})
			w.cdns["a"].script(func(req *cdnv1.SeedRequest, send func(*cdnv1.SeedResponse)) error {
				_ = announcesAll(req, send)
				<-gone
				return rpcerr.New(codes.Aborted, rpcerr.TaskDeleted, "its files are gone")
			}, nil)
			w.follow()
			w.registerPeer("p")
			w.reportAllPieces("p")
			if unfinished {
				w.registerPeer("late")
			}
			w.cdns["a"].script(announcesAll, nil)
			close(gone)
			if unfinished {
				waitFor(t, w.cdns["a"].seeds, anyValue)
				waitFor(t, w.cdns["a"].seeds, anyValue)
				eventually(t, func() bool { return len(w.copies()) == 1 })
				return
			}
			require.Equal(t, rpcerr.TaskDeleted, rpcerr.ReasonOf(waitFor(t, w.ended, anyValue)))
		})
	}
}
