package registry_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry"
)

// assignmentOf returns the part of a record that changes with its epoch, and the replicas.
func assignmentOf(r *registryv1.TaskRecord) []any {
	return []any{r.GetOwner(), r.GetReplicas(), r.GetScheduler(), r.GetEpoch()}
}

func copyOf(r *registryv1.TaskRecord) *registryv1.Copy {
	return &registryv1.Copy{
		TaskId: r.GetTaskId(), Url: r.GetUrl(), Source: r.GetSource(), PieceSize: r.GetPieceSize(), Epoch: r.GetEpoch(), Whole: true,
	}
}

// finish makes the owner report that it has the whole content.
func finish(t *testing.T, n *node, r *registryv1.TaskRecord) *registryv1.TaskRecord {
	t.Helper()
	resp, err := untilStored(t, n.UpdateTask, &registryv1.UpdateTaskRequest{
		TaskId: r.GetTaskId(), Owner: r.GetOwner(), Epoch: r.GetEpoch(), PieceSize: 4 << 20,
		Source: &registryv1.SourceIdentity{Length: 9, Etag: `"v"`}, Status: registryv1.TaskStatus_TASK_STATUS_SUCCESS,
	})
	require.NoError(t, err)
	return resp.GetRecord()
}

// forget removes a CDN from the members.
func forget(t *testing.T, n *node, id string) {
	t.Helper()
	for range 2 {
		_, err := untilStored(t, n.ForgetMember, &registryv1.ForgetMemberRequest{Role: registryv1.Role_ROLE_CDN, Id: id})
		require.NoError(t, err)
	}
}

func TestEveryCallThatChangesOwnersAndReplicas(t *testing.T) {
	withEachStore(t, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		defer keepAlive(t, n[0], cdn("c0"), cdn("c1"), cdn("c2"), scheduler("s"))()
		watch(t, n[1]).until("s", "c0", "c1", "c2")
		first := claim(t, n[0], 1, "s")
		rec := first.GetRecord()
		require.Len(t, rec.GetReplicas(), 1)
		require.Equal(t, rec.GetReplicas()[0], first.GetReplicas()[0].GetId())
		owner, replica := rec.GetOwner(), rec.GetReplicas()[0]
		third := slices.DeleteFunc([]string{"c0", "c1", "c2"}, func(id string) bool { return id == owner || id == replica })[0]
		rec = finish(t, n[1], rec)

		// The scheduler reports the owner as lost. The owner is still a member.
		ask := &registryv1.ResolveTaskRequest{TaskId: taskID(1), SchedulerId: "s", LostOwner: owner}
		_, err := untilStored(t, n[1].ResolveTask, ask)
		require.Equal(t, codes.InvalidArgument, status.Code(err), "the report has no epoch: %v", err)
		ask.Last = rec
		got, err := untilStored(t, n[1].ResolveTask, ask)
		require.NoError(t, err)
		require.Equal(t, []any{replica, []string{owner}, "s", int64(2)}, assignmentOf(got.GetRecord()))
		require.Equal(t, registryv1.TaskStatus_TASK_STATUS_SUCCESS, got.GetRecord().GetStatus())
		again, err := untilStored(t, n[0].ResolveTask, ask)
		require.NoError(t, err)
		require.True(t, proto.Equal(got, again), "the report is of an earlier epoch")

		// The former owner leaves.
		repair := &registryv1.RepairTaskRequest{TaskId: taskID(1), CdnId: third}
		_, err = untilStored(t, n[0].RepairTask, repair)
		require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(err))
		forget(t, n[0], owner)
		repair.CdnId = replica
		for range 2 {
			// keepAlive may have made it a member again. The result is the same.
			repaired, err := untilStored(t, n[1].RepairTask, repair)
			require.NoError(t, err)
			require.EqualValues(t, 2, repaired.GetRecord().GetEpoch())
			require.Len(t, repaired.GetRecord().GetReplicas(), 1)
		}

		move := &registryv1.MoveTaskRequest{TaskId: taskID(1), Epoch: 2, To: third}
		moved, err := n[0].MoveTask(testContext(t), move)
		if status.Code(err) == codes.Unavailable { // the move may have been written nevertheless
			move.Epoch = 0
			moved, err = untilStored(t, n[0].MoveTask, move)
		}
		require.NoError(t, err)
		require.Equal(t, third, moved.GetRecord().GetOwner())
		require.Contains(t, moved.GetRecord().GetReplicas(), replica)
		_, err = untilStored(t, n[1].MoveTask, &registryv1.MoveTaskRequest{TaskId: taskID(1), Epoch: 2, To: third})
		require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(err))
		require.Equal(t, third, rpcerr.From(err).Metadata["owner"])

		left, err := untilStored(t, n[1].ResignTask, &registryv1.ResignTaskRequest{TaskId: taskID(1), CdnId: third})
		require.NoError(t, err)
		require.NotContains(t, append(left.GetRecord().GetReplicas(), left.GetRecord().GetOwner()), third)
		require.EqualValues(t, 4, left.GetRecord().GetEpoch())
		none, err := untilStored(t, n[1].ResignTask, &registryv1.ResignTaskRequest{TaskId: taskID(2), CdnId: third})
		require.NoError(t, err)
		require.Nil(t, none.GetRecord())

		announced, err := untilStored(t, n[0].AnnounceCopies, &registryv1.AnnounceCopiesRequest{CdnId: third, Copies: []*registryv1.Copy{
			copyOf(rec), {TaskId: taskID(7), Url: "http://127.0.0.1/7", Source: rec.GetSource(), PieceSize: 4, Epoch: 3, Pieces: 1},
		}})
		require.NoError(t, err)
		require.Empty(t, announced.GetUnwanted())
		require.Contains(t, announced.GetRecords()[0].GetReplicas(), third)
		require.Equal(t, []any{third, []string(nil), "", int64(4)}, assignmentOf(announced.GetRecords()[1]))
	})
}

func TestMemberWithADrainMarkGetsNoNewTasks(t *testing.T) {
	withEachStore(t, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		w := watch(t, n[1])
		keepAlive(t, n[0], scheduler("s"))
		stop := keepAlive(t, n[0], cdn("c0"))
		drain := &registryv1.DrainMemberRequest{Role: registryv1.Role_ROLE_CDN, Id: "c0", Drain: true}
		began := time.Now()
		for range 2 {
			_, err := untilStored(t, n[0].DrainMember, drain)
			require.NoError(t, err)
		}
		untilState := func(want registryv1.MemberState) {
			for {
				got := w.until("s", "c0")
				if got[1].GetState() == want {
					return
				}
			}
		}
		untilState(registryv1.MemberState_MEMBER_STATE_DRAINING)
		if time.Since(began) < promptTime {
			require.EqualValues(t, 1, metric(t, n[0], "supernode_registry_store_writes_total", "drain"))
		}
		// The mark stays when the member leaves.
		stop()
		_, err := untilStored(t, n[0].Leave, &registryv1.LeaveRequest{Role: registryv1.Role_ROLE_CDN, Id: "c0"})
		require.NoError(t, err)
		w.until("s")
		keepAlive(t, n[0], cdn("c0"))
		require.True(t, sendHeartbeats(t, n[1], cdn("c0")).GetDrain())
		untilState(registryv1.MemberState_MEMBER_STATE_DRAINING)
		_, err = untilStored(t, n[1].ResolveTask, &registryv1.ResolveTaskRequest{TaskId: taskID(1), Url: "http://127.0.0.1/f", SchedulerId: "s"})
		require.Equal(t, rpcerr.NoCDN, rpcerr.ReasonOf(err))

		drain.Drain = false
		_, err = untilStored(t, n[1].DrainMember, drain)
		require.NoError(t, err)
		untilState(registryv1.MemberState_MEMBER_STATE_READY)
		require.Equal(t, "c0", claim(t, n[0], 1, "s").GetRecord().GetOwner())
	})
}

func TestListingsShowLoadsAndRecords(t *testing.T) {
	n := startNode(t, registry.Config{EmbeddedDir: t.TempDir(), Replicas: 3})
	defer keepAlive(t, n, cdn("c0"), cdn("c1"), cdn("c2"), cdn("c3"), scheduler("s"))()
	const tasks = 25
	for i := range tasks {
		require.Len(t, claim(t, n, i, "s").GetRecord().GetReplicas(), 2)
	}
	resp, err := n.ListMembers(testContext(t), &registryv1.ListMembersRequest{Roles: []registryv1.Role{registryv1.Role_ROLE_CDN}})
	require.NoError(t, err)
	require.Len(t, resp.GetMembers(), 4)
	owned, replicated := 0, 0
	for _, load := range resp.GetLoads() {
		require.LessOrEqual(t, load.GetOwned(), int32(8))
		owned, replicated = owned+int(load.GetOwned()), replicated+int(load.GetReplicated())
	}
	require.Equal(t, []int{tasks, 2 * tasks}, []int{owned, replicated})

	list := func(member string) (ids []string) {
		req := &registryv1.ListTasksRequest{MemberId: member, PageSize: 4}
		for {
			page, err := n.ListTasks(testContext(t), req)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.GetRecords()), 4)
			for _, r := range page.GetRecords() {
				ids = append(ids, r.GetTaskId())
			}
			if req.PageToken = page.GetNextPageToken(); req.PageToken == "" {
				return ids
			}
		}
	}
	all := list("")
	require.Len(t, all, tasks)
	require.True(t, slices.IsSorted(all))
	require.Equal(t, all, list("s"))
	for _, load := range resp.GetLoads() {
		require.Len(t, list(load.GetCdnId()), int(load.GetOwned()+load.GetReplicated()))
	}
	for _, bad := range []*registryv1.ListTasksRequest{{PageSize: -1}, {PageSize: 1001}, {MemberId: "a/b"}, {PageToken: "x"}} {
		_, err := n.ListTasks(testContext(t), bad)
		require.Equal(t, codes.InvalidArgument, status.Code(err))
	}
}

// A scheduler restores the record of its task, and a CDN announces the copies that have no
// record.
func TestEmptiedStoreGetsItsRecordsBack(t *testing.T) {
	t.Parallel()
	e := startExternalEtcd(t)
	// The store is young for the time of a lease, and must still be when copies are announced.
	n := startNode(t, registry.Config{Endpoints: []string{e.client.Host}, LeaseTTL: 10 * time.Second})
	defer keepAlive(t, n, cdn("c0"), cdn("c1"), scheduler("s"))()
	var before []*registryv1.TaskRecord
	for i := range 4 {
		before = append(before, finish(t, n, claim(t, n, i, "s").GetRecord()))
	}
	stream := watchTasks(t, n, registryv1.Role_ROLE_CDN, "c0")
	stream.complete()
	_, err := e.raw().Delete(testContext(t), "/supernode", clientv3.WithPrefix())
	require.NoError(t, err)
	require.Equal(t, codes.Unavailable, status.Code(stream.end()), "the watch has to start again")
	watch(t, n).until("s", "c0", "c1")
	stream = watchTasks(t, n, registryv1.Role_ROLE_CDN, "c0")
	require.Empty(t, stream.complete())

	var restored *registryv1.TaskRecord
	require.Eventually(t, func() bool { // until the scheduler is a member of the new store
		resp, err := n.ResolveTask(testContext(t), &registryv1.ResolveTaskRequest{
			TaskId: before[0].GetTaskId(), SchedulerId: "s", Last: before[0],
		})
		restored = resp.GetRecord()
		return err == nil && !resp.GetUnclaimed()
	}, testTimeout, 50*time.Millisecond)
	require.Equal(t, assignmentOf(before[0]), assignmentOf(restored))
	require.True(t, proto.Equal(before[0].GetSource(), restored.GetSource()))
	announce := &registryv1.AnnounceCopiesRequest{CdnId: "c0", Copies: []*registryv1.Copy{copyOf(before[1]), copyOf(before[2])}}
	_, err = n.AnnounceCopies(testContext(t), announce)
	require.Equal(t, codes.Unavailable, status.Code(err), "schedulers may still restore the records")
	var resp *registryv1.AnnounceCopiesResponse
	require.Eventually(t, func() bool {
		resp, err = n.AnnounceCopies(testContext(t), announce)
		return err == nil
	}, testTimeout, 100*time.Millisecond)
	require.Len(t, resp.GetRecords(), 2)
	for _, r := range resp.GetRecords() {
		require.Equal(t, []any{"c0", []string(nil), "", int64(2)}, assignmentOf(r))
		require.Equal(t, registryv1.TaskStatus_TASK_STATUS_SUCCESS, r.GetStatus())
	}
	resp, err = untilStored(t, n.AnnounceCopies, &registryv1.AnnounceCopiesRequest{CdnId: "c1", Copies: []*registryv1.Copy{copyOf(before[1])}})
	require.NoError(t, err)
	require.Equal(t, []string{"c1"}, resp.GetRecords()[0].GetReplicas())
	require.EqualValues(t, 3, claim(t, n, 1, "s").GetRecord().GetEpoch(), "the record had no scheduler")
}
