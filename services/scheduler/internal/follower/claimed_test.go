package follower

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func unclaimed(r *registryv1.ResolveTaskRequest) bool { return r.GetLast() == nil }

func TestUnclaimedTaskIsAskedForUntilItIsClaimed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(tells(0), nil)
	w.answers(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		resp := w.record(0, "a")
		resp.Unclaimed = unclaimed(r)
		if !resp.Unclaimed {
			resp = w.record(1, "a", "b")
		}
		return resp, nil
	})
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	require.Zero(t, wait(t, w.cdns["a"].seeds, anything).GetEpoch())
	asked := wait(t, w.asked, func(r *registryv1.ResolveTaskRequest) bool { return r.GetLast() != nil })
	require.Equal(t, "a", asked.GetLast().GetOwner())
	require.EqualValues(t, 1, wait(t, w.cdns["a"].seeds, anything).GetEpoch(), "it hears of its epoch")
	wait(t, w.cdns["b"].follows, anything)
}

func TestWithoutAnyRegistryAMemberIsTaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	for _, c := range w.cdns {
		c.script(tells(0), nil)
	}
	w.answers(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return nil, rpcerr.New(codes.Unavailable, "", "nobody is there")
	})
	w.follow()
	w.peer("p")
	first, second := "a", "b"
	await(t, func() bool { return len(w.cdns["a"].seeds)+len(w.cdns["b"].seeds) > 0 })
	if len(w.cdns["b"].seeds) > 0 {
		first, second = second, first
	}
	require.Zero(t, wait(t, w.cdns[first].seeds, anything).GetEpoch())
	w.offered("p", first)

	w.cdns[first].kill() // and nobody can be asked for another
	w.offered("p", second)
	w.answers(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		if r.GetLast().GetOwner() != second {
			return nil, rpcerr.Invalid("not what was last seen")
		}
		return w.record(1, second), nil
	})
	wait(t, w.cdns[second].seeds, func(r *cdnv1.SeedRequest) bool { return r.GetEpoch() == 1 })
}

func TestStoreThatIsAwayDoesNotKeepAnOwnerAwayThatIsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a")
	w.cdns["a"].script(tells(0), nil)
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	w.answers(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		resp := w.record(1, "a")
		resp.Unclaimed = true
		return resp, nil
	})
	wake := w.cdns["a"].hang()
	wait(t, w.asked, lost("a"))
	wake()
	w.offered("p", "a")
}

func (w *world) news(r *registryv1.WatchTasksResponse) {
	w.t.Helper()
	select {
	case w.watching <- r:
	case <-w.t.Context().Done():
	}
}

func TestNewReplicaIsFollowedWhenTheRecordSaysSo(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "a", "b")
	w.cdns["a"].script(tells(0, 1), nil)
	w.cdns["b"].script(nil, has(0, 1))
	w.answers(func(*registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
		return w.record(1, "a"), nil
	})
	w.follow()
	w.peer("p")
	w.offered("p", "a")
	asked := len(w.asked)
	w.news(&registryv1.WatchTasksResponse{Records: []*registryv1.TaskRecord{w.record(1, "a", "b").GetRecord()}, Complete: true})
	w.offered("p", "b")
	require.Len(t, w.asked, asked, "nobody had to be asked")
	require.Len(t, w.cdns["a"].seeds, 1)

	w.news(&registryv1.WatchTasksResponse{Records: []*registryv1.TaskRecord{w.record(2, "b", "a").GetRecord()}})
	require.EqualValues(t, 2, wait(t, w.cdns["b"].seeds, anything).GetEpoch())
	wait(t, w.cdns["a"].follows, anything)
}

func TestTaskThatAnotherSchedulerTookEndsHere(t *testing.T) {
	t.Parallel()
	for name, news := range map[string]*registryv1.WatchTasksResponse{
		"gone":                   {Gone: []string{taskID}},
		"not among the first":    {Complete: true},
		"named with the new one": {Records: []*registryv1.TaskRecord{{TaskId: taskID, Owner: "a", Scheduler: "other", Epoch: 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "a")
			w.cdns["a"].script(tells(0), nil)
			w.follow()
			w.peer("p")
			w.offered("p", "a")
			w.answers(func(r *registryv1.ResolveTaskRequest) (*registryv1.ResolveTaskResponse, error) {
				if r.GetLostScheduler() != "" {
					return nil, rpcerr.Invalid("who had the task must not take it back")
				}
				resp := w.record(2, "a")
				resp.Record.Scheduler, resp.Scheduler = "other", &registryv1.Member{Id: "other", Endpoint: "127.0.0.9:1"}
				return resp, nil
			})
			w.news(news)
			e := rpcerr.From(wait(t, w.ended, anything))
			require.Equal(t, rpcerr.NotOwner, e.Reason, e.Text)
			require.Equal(t, "127.0.0.9:1", e.Metadata["endpoint"])
		})
	}
}
