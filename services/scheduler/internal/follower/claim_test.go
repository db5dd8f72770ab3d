package follower

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func withoutClaim(r *registryv1.ResolveTaskRequest) bool { return r.GetLast() == nil }

func TestUnclaimedTaskIsResolvedAgainUntilItIsClaimed(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(announces(0), nil)
	w.setResolve(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		resp := w.record(0, "a")
		resp.Unclaimed = withoutClaim(r)
		if !resp.Unclaimed {
			resp = w.record(1, "a", "b")
		}
		return resp, nil
	})
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	require.Zero(t, waitFor(t, w.cdns["a"].seeds, anyValue).GetEpoch())
	request := waitFor(t, w.resolveRequests, func(r *registryv1.ResolveTaskRequest) bool { return r.GetLast() != nil })
	require.Equal(t, "a", request.GetLast().GetOwner())
	require.EqualValues(t, 1, waitFor(t, w.cdns["a"].seeds, anyValue).GetEpoch(), "the stream is opened again for the claimed epoch")
	waitFor(t, w.cdns["b"].follows, anyValue)
}

func TestCDNIsChosenFromTheMembersWithoutARegistry(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	for _, c := range w.cdns {
		c.script(announces(0), nil)
	}
	w.setResolve(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return nil, rpcerr.New(codes.Unavailable, "", "the registry is down")
	})
	w.follow()
	w.registerPeer("p")
	first, second := "a", "b"
	eventually(t, func() bool { return len(w.cdns["a"].seeds)+len(w.cdns["b"].seeds) > 0 })
	if len(w.cdns["b"].seeds) > 0 {
		first, second = second, first
	}
	require.Zero(t, waitFor(t, w.cdns[first].seeds, anyValue).GetEpoch())
	w.requireOffer("p", first)

	w.cdns[first].kill() // while the registry is down
	w.requireOffer("p", second)
	w.setResolve(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		if r.GetLast().GetOwner() != second {
			return nil, rpcerr.Invalid("the last claim is wrong")
		}
		return w.record(1, second), nil
	})
	waitFor(t, w.cdns[second].seeds, func(r *cdnv1.SeedRequest) bool { return r.GetEpoch() == 1 })
}

func TestOwnerThatIsBackIsUsedWhileTheStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a")
	w.cdns["a"].script(announces(0), nil)
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	w.setResolve(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		resp := w.record(1, "a")
		resp.Unclaimed = true
		return resp, nil
	})
	resume := w.cdns["a"].hang()
	waitFor(t, w.resolveRequests, lostOwnerIs("a"))
	resume()
	w.requireOffer("p", "a")
}

func (w *testCluster) sendRecords(r *registryv1.WatchTasksResponse) {
	w.t.Helper()
	select {
	case w.watching <- r:
	case <-w.t.Context().Done():
	}
}

func TestReplicaIsFollowedWhenTheRecordNamesIt(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t, "a", "b")
	w.cdns["a"].script(announces(0, 1), nil)
	w.cdns["b"].script(nil, followAnnounces(0, 1))
	w.setResolve(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return w.record(1, "a"), nil
	})
	w.follow()
	w.registerPeer("p")
	w.requireOffer("p", "a")
	request := len(w.resolveRequests)
	w.sendRecords(&registryv1.WatchTasksResponse{Records: []*registryv1.TaskRecord{w.record(1, "a", "b").GetRecord()}, Complete: true})
	w.requireOffer("p", "b")
	require.Len(t, w.resolveRequests, request, "the update must suffice without a request")
	require.Len(t, w.cdns["a"].seeds, 1)

	w.sendRecords(&registryv1.WatchTasksResponse{Records: []*registryv1.TaskRecord{w.record(2, "b", "a").GetRecord()}})
	require.EqualValues(t, 2, waitFor(t, w.cdns["b"].seeds, anyValue).GetEpoch())
	waitFor(t, w.cdns["a"].follows, anyValue)
}

func TestFollowReturnsNotOwnerWhenAnotherSchedulerTakesOver(t *testing.T) {
	t.Parallel()
	for name, update := range map[string]*registryv1.WatchTasksResponse{
		"gone":                   {Gone: []string{taskID}},
		"not among the first":    {Complete: true},
		"named with the new one": {Records: []*registryv1.TaskRecord{{TaskId: taskID, Owner: "a", Scheduler: "other", Epoch: 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newTestCluster(t, "a")
			w.cdns["a"].script(announces(0), nil)
			w.follow()
			w.registerPeer("p")
			w.requireOffer("p", "a")
			w.setResolve(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
				if r.GetLostScheduler() != "" {
					return nil, rpcerr.Invalid("the former scheduler must not take the task back")
				}
				resp := w.record(2, "a")
				resp.Record.Scheduler, resp.Scheduler = "other", &registryv1.Member{Id: "other", Endpoint: "127.0.0.9:1"}
				return resp, nil
			})
			w.sendRecords(update)
			e := rpcerr.From(waitFor(t, w.ended, anyValue))
			require.Equal(t, rpcerr.NotOwner, e.Reason, e.Text)
			require.Equal(t, "127.0.0.9:1", e.Metadata["endpoint"])
		})
	}
}
