package registry_test

import (
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// tasksWatcher receives the messages of one WatchTasks stream.
type tasksWatcher struct {
	t      *testing.T
	stream interface {
		Recv() (*registryv1.WatchTasksResponse, error)
	}
	known map[string]*registryv1.TaskRecord
}

func watchTasks(t *testing.T, n *node, role registryv1.Role, id string) *tasksWatcher {
	t.Helper()
	stream, err := n.WatchTasks(testContext(t), &registryv1.WatchTasksRequest{Role: role, MemberId: id})
	require.NoError(t, err)
	return &tasksWatcher{t: t, stream: stream, known: make(map[string]*registryv1.TaskRecord)}
}

func (w *tasksWatcher) next() *registryv1.WatchTasksResponse {
	w.t.Helper()
	resp, err := w.stream.Recv()
	require.NoError(w.t, err)
	require.LessOrEqual(w.t, len(resp.GetRecords())+len(resp.GetGone()), 500)
	require.EqualValues(w.t, 2, resp.GetReplicas())
	for _, r := range resp.GetRecords() {
		w.known[r.GetTaskId()] = r
	}
	for _, id := range resp.GetGone() {
		require.Contains(w.t, w.known, id)
		delete(w.known, id)
	}
	return resp
}

// complete receives messages until the one that is complete.
func (w *tasksWatcher) complete() map[string]*registryv1.TaskRecord {
	w.t.Helper()
	for !w.next().GetComplete() {
		continue
	}
	return w.known
}

func (w *tasksWatcher) until(condition func() bool) {
	w.t.Helper()
	for !condition() {
		require.False(w.t, w.next().GetComplete(), "complete is set only once")
	}
}

func (w *tasksWatcher) end() error {
	for {
		if _, err := w.stream.Recv(); err != nil {
			require.NotErrorIs(w.t, err, io.EOF)
			return err
		}
	}
}

func TestWatchTasksSendsAllRecordsThenChanges(t *testing.T) {
	withEachStore(t, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		defer keepAlive(t, n[0], cdn("c0"), cdn("c1"), cdn("c2"), scheduler("s"))()
		watch(t, n[1]).until("s", "c0", "c1", "c2")
		resp, err := untilStored(t, n[0].AnnounceCopies, announcement("c0", 0, 500))
		require.NoError(t, err)
		require.Len(t, resp.GetRecords(), 500)
		_, err = untilStored(t, n[0].AnnounceCopies, announcement("c0", 500, 50))
		require.NoError(t, err)
		c0, c1 := watchTasks(t, n[0], registryv1.Role_ROLE_CDN, "c0"), watchTasks(t, n[1], registryv1.Role_ROLE_CDN, "c1")
		s := watchTasks(t, n[1], registryv1.Role_ROLE_SCHEDULER, "s")
		require.Len(t, c0.complete(), 550)
		require.Empty(t, c1.complete())
		require.Empty(t, s.complete())

		_, err = untilStored(t, n[1].MoveTask, &registryv1.MoveTaskRequest{TaskId: taskID(3), To: "c1"})
		require.NoError(t, err)
		c1.until(func() bool { return c1.known[taskID(3)].GetOwner() == "c1" })
		c0.until(func() bool { return c0.known[taskID(3)].GetOwner() == "c1" })
		_, err = untilStored(t, n[1].ResignTask, &registryv1.ResignTaskRequest{TaskId: taskID(3), CdnId: "c0"})
		require.NoError(t, err)
		c0.until(func() bool { return c0.known[taskID(3)] == nil })
		claim(t, n[0], 3, "s")
		s.until(func() bool { return s.known[taskID(3)].GetScheduler() == "s" })
		_, err = untilStored(t, n[0].DeleteTask, &registryv1.DeleteTaskRequest{TaskId: taskID(3), Epoch: 3})
		require.NoError(t, err)
		s.until(func() bool { return s.known[taskID(3)] == nil })
		c1.until(func() bool { return c1.known[taskID(3)] == nil })

		bad, err := n[0].WatchTasks(testContext(t), &registryv1.WatchTasksRequest{Role: registryv1.Role_ROLE_GATEWAY, MemberId: "g"})
		require.NoError(t, err)
		_, err = bad.Recv()
		require.Equal(t, codes.InvalidArgument, status.Code(err))
		require.NoError(t, n[0].stop())
		require.Error(t, c0.end(), "streams end when the registry stops")
	})
}

func announcement(cdn string, from, count int) *registryv1.AnnounceCopiesRequest {
	req := &registryv1.AnnounceCopiesRequest{CdnId: cdn}
	for i := range count {
		req.Copies = append(req.Copies, &registryv1.Copy{
			TaskId: taskID(from + i), Url: fmt.Sprint("http://127.0.0.1/", from+i), PieceSize: 4,
			Source: &registryv1.SourceIdentity{Length: 1}, Pieces: 1, Whole: true,
		})
	}
	return req
}
