package registry_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry"
)

func TestTaskCausesThreeWritesFromClaimToSuccess(t *testing.T) {
	withEachStore(t, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(1)[0]
		defer keepAlive(t, n, cdn("c"), scheduler("s"))()
		watch(t, n).until("s", "c")
		began := time.Now()
		before := metric(t, n, "supernode_registry_store_writes_total", "")

		resp, err := untilStored(t, n.ResolveTask, &registryv1.ResolveTaskRequest{
			TaskId: taskID(1), Url: "http://user:secret@127.0.0.1/a%2Fb?q=%7e#part", SchedulerId: "s",
		})
		require.NoError(t, err)
		rec, claimed := resp.GetRecord(), resp.GetRecord().GetRevision()
		require.Equal(t, "http://127.0.0.1/a%2Fb?q=%7e", rec.GetUrl())
		require.Equal(t, []any{"c", "s", int64(1), registryv1.TaskStatus_TASK_STATUS_WAITING},
			[]any{rec.GetOwner(), rec.GetScheduler(), rec.GetEpoch(), rec.GetStatus()})
		require.Equal(t, "c", resp.GetOwner().GetId())
		require.Equal(t, "s", resp.GetScheduler().GetId())

		update := func(u *registryv1.UpdateTaskRequest) *registryv1.TaskRecord {
			u.TaskId, u.Owner, u.Epoch = taskID(1), "c", 1
			resp, err := untilStored(t, n.UpdateTask, u)
			require.NoError(t, err)
			return resp.GetRecord()
		}
		source := &registryv1.SourceIdentity{Length: 7, Etag: `"x"`}
		update(&registryv1.UpdateTaskRequest{Source: source, PieceSize: 4 << 20, Status: registryv1.TaskStatus_TASK_STATUS_RUNNING})
		for range 3 { // repeating it causes no write
			rec = update(&registryv1.UpdateTaskRequest{Status: registryv1.TaskStatus_TASK_STATUS_SUCCESS})
		}
		require.EqualValues(t, 7, rec.GetSource().GetLength(), "fields that are not set stay")
		require.EqualValues(t, 4<<20, rec.GetPieceSize())
		require.Equal(t, rec.GetRevision(), claim(t, n, 1, "s").GetRecord().GetRevision())
		require.EqualValues(t, 2, rec.GetRevision()-claimed, "every write increments the revision of the store")
		if time.Since(began) < promptTime {
			require.EqualValues(t, 3, metric(t, n, "supernode_registry_store_writes_total", "")-before)
		}
		require.EqualValues(t, 1, metric(t, n, "supernode_registry_records", ""))

		_, err = untilStored(t, n.DeleteTask, &registryv1.DeleteTaskRequest{TaskId: taskID(1), Epoch: 2})
		require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(err))
		for range 2 {
			_, err = untilStored(t, n.DeleteTask, &registryv1.DeleteTaskRequest{TaskId: taskID(1), Epoch: 1})
			require.NoError(t, err)
		}
		_, err = n.GetTask(testContext(t), &registryv1.GetTaskRequest{TaskId: taskID(1)})
		require.Equal(t, codes.NotFound, status.Code(err))
	})
}

func TestConcurrentClaimsGetTheSameRecord(t *testing.T) {
	withEachStore(t, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		defer keepAlive(t, n[0], cdn("c1"), cdn("c2"), cdn("c3"), scheduler("s0"), scheduler("s1"))()
		for _, one := range n {
			watch(t, one).until("s0", "s1", "c1", "c2", "c3")
		}
		const tasks, callers = 20, 25
		var mu sync.Mutex // guards answers
		answers := make(map[string]map[string]bool)
		var all sync.WaitGroup
		for caller := range 2 * callers {
			all.Go(func() {
				for i := range tasks {
					task := (i + caller) % tasks
					resp, err := untilStored(t, n[caller%2].ResolveTask, resolveRequest(task, fmt.Sprintf("s%d", caller%2)))
					if err != nil {
						t.Error(err)
						return
					}
					r := resp.GetRecord()
					mu.Lock()
					if answers[r.GetTaskId()] == nil {
						answers[r.GetTaskId()] = make(map[string]bool)
					}
					answers[r.GetTaskId()][fmt.Sprint(r.GetOwner(), r.GetScheduler(), r.GetEpoch(), r.GetRevision())] = true
					mu.Unlock()
					if r.GetEpoch() != 1 {
						t.Errorf("task %d has epoch %d", task, r.GetEpoch())
					}
				}
			})
		}
		all.Wait()
		require.Len(t, answers, tasks)
		for task, different := range answers {
			require.Len(t, different, 1, "task %s: %v", task, different)
		}
	})
}

func TestOwnerAndSchedulerWhoseLeasesExpireAreReplaced(t *testing.T) {
	t.Parallel()
	withEachStoreAndTTL(t, 6*time.Second, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		w := watch(t, n[1])
		defer keepAlive(t, n[0], cdn("c1"), scheduler("s1"))()
		lost := keepAlive(t, n[0], cdn("c0"), scheduler("s0"))
		w.until("s0", "s1", "c0", "c1")
		ofC0 := -1 // a task that c0 owns
		for i := 0; ofC0 < 0; i++ {
			if claim(t, n[0], i, "s0").GetRecord().GetOwner() == "c0" {
				ofC0 = i
			}
		}
		_, err := untilStored(t, n[0].UpdateTask, &registryv1.UpdateTaskRequest{
			TaskId: taskID(ofC0), Owner: "c0", Epoch: 1, PieceSize: 100, Source: &registryv1.SourceIdentity{Length: 9},
			Status: registryv1.TaskStatus_TASK_STATUS_SUCCESS,
		})
		require.NoError(t, err)
		require.EqualValues(t, 1, claim(t, n[1], ofC0, "s1").GetRecord().GetEpoch(), "all are members: nothing changes")

		lost()
		w.until("s1", "c1")
		resp := claim(t, n[1], ofC0, "s1")
		rec := resp.GetRecord()
		require.Equal(t, []any{"c1", "s1", int64(2)}, []any{rec.GetOwner(), rec.GetScheduler(), rec.GetEpoch()})
		require.Equal(t, registryv1.TaskStatus_TASK_STATUS_SUCCESS, rec.GetStatus())
		require.EqualValues(t, 9, rec.GetSource().GetLength(), "the replica has a copy of this version")
		require.EqualValues(t, 100, rec.GetPieceSize())
		require.Empty(t, rec.GetReplicas(), "the lost owner is not a replica, and there is no other CDN")
		require.Equal(t, "c1", resp.GetOwner().GetId())

		// The former owner must not overwrite the record.
		_, err = untilStored(t, n[0].UpdateTask, &registryv1.UpdateTaskRequest{
			TaskId: taskID(ofC0), Owner: "c0", Epoch: 1, Status: registryv1.TaskStatus_TASK_STATUS_FAILED,
		})
		require.Equal(t, codes.Aborted, status.Code(err))
		require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(err))
		require.Equal(t, "c1", rpcerr.From(err).Metadata["owner"])
	})
}

func TestOwnerStaysIfOnlyTheSchedulerLeaves(t *testing.T) {
	n := startNode(t, registry.Config{EmbeddedDir: t.TempDir()})
	keepAlive(t, n, cdn("c"), scheduler("s1"))
	stop := keepAlive(t, n, scheduler("s0"))
	claim(t, n, 1, "s0")
	_, err := untilStored(t, n.UpdateTask, &registryv1.UpdateTaskRequest{
		TaskId: taskID(1), Owner: "c", Epoch: 1, Source: &registryv1.SourceIdentity{Length: 9}, Status: registryv1.TaskStatus_TASK_STATUS_SUCCESS,
	})
	require.NoError(t, err)
	stop()
	_, err = untilStored(t, n.Leave, &registryv1.LeaveRequest{Role: registryv1.Role_ROLE_SCHEDULER, Id: "s0"})
	require.NoError(t, err)
	rec := claim(t, n, 1, "s1").GetRecord()
	require.Equal(t, []any{"c", "s1", int64(2)}, []any{rec.GetOwner(), rec.GetScheduler(), rec.GetEpoch()})
	require.Equal(t, registryv1.TaskStatus_TASK_STATUS_SUCCESS, rec.GetStatus())
	require.EqualValues(t, 9, rec.GetSource().GetLength())

	failed, err := untilStored(t, n.UpdateTask, &registryv1.UpdateTaskRequest{
		TaskId: taskID(1), Owner: "c", Epoch: 2, PieceSize: 4, Status: registryv1.TaskStatus_TASK_STATUS_FAILED,
	})
	require.NoError(t, err)
	require.Nil(t, failed.GetRecord().GetSource(), "the next download may get another version")
	require.Zero(t, failed.GetRecord().GetPieceSize())
}

func TestResolveIsRefusedIfAllCDNsDrain(t *testing.T) {
	n := startNode(t, registry.Config{EmbeddedDir: t.TempDir()})
	draining := cdn("c")
	draining.State = registryv1.MemberState_MEMBER_STATE_DRAINING
	keepAlive(t, n, draining)
	_, err := untilStored(t, n.ResolveTask, &registryv1.ResolveTaskRequest{TaskId: taskID(1), Url: "http://127.0.0.1/f", SchedulerId: "s"})
	require.Equal(t, codes.FailedPrecondition, status.Code(err))
	require.Equal(t, rpcerr.NoCDN, rpcerr.ReasonOf(err))
}

func TestInvalidTaskRequestsAreRefused(t *testing.T) {
	n := startNode(t, registry.Config{EmbeddedDir: t.TempDir()})
	sendHeartbeats(t, n, cdn("c"))
	good := func() *registryv1.ResolveTaskRequest {
		return &registryv1.ResolveTaskRequest{TaskId: taskID(1), Url: "http://127.0.0.1/f", SchedulerId: "s"}
	}
	for name, invalidate := range map[string]func(*registryv1.ResolveTaskRequest){
		"task id":                func(r *registryv1.ResolveTaskRequest) { r.TaskId = "../../x" },
		"no scheduler":           func(r *registryv1.ResolveTaskRequest) { r.SchedulerId = "" },
		"scheduler":              func(r *registryv1.ResolveTaskRequest) { r.SchedulerId = "a/b" },
		"no url for a new task":  func(r *registryv1.ResolveTaskRequest) { r.Url = "" },
		"url without scheme":     func(r *registryv1.ResolveTaskRequest) { r.Url = "/f" },
		"url that cannot be one": func(r *registryv1.ResolveTaskRequest) { r.Url = "http://a\x7f/" },
	} {
		t.Run(name, func(t *testing.T) {
			r := good()
			invalidate(r)
			_, err := untilStored(t, n.ResolveTask, r)
			require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
		})
	}
	ctx := testContext(t)
	_, err := n.GetTask(ctx, &registryv1.GetTaskRequest{TaskId: "x"})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = n.DeleteTask(ctx, &registryv1.DeleteTaskRequest{TaskId: "x"})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	for _, u := range []*registryv1.UpdateTaskRequest{
		{TaskId: "x", Owner: "c"}, {TaskId: taskID(1)}, {TaskId: taskID(1), Owner: "c", PieceSize: -1},
		{TaskId: taskID(1), Owner: "c", Source: &registryv1.SourceIdentity{Length: -2}},
	} {
		_, err = n.UpdateTask(ctx, u)
		require.Equal(t, codes.InvalidArgument, status.Code(err))
	}
	_, err = untilStored(t, n.UpdateTask, &registryv1.UpdateTaskRequest{TaskId: taskID(1), Owner: "c", Epoch: 1})
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
}

func TestInvalidOwnershipRequestsAreRefused(t *testing.T) {
	n := startNode(t, registry.Config{EmbeddedDir: t.TempDir()})
	ctx, id := testContext(t), taskID(1)
	record := func(invalidate func(*registryv1.TaskRecord)) *registryv1.TaskRecord {
		r := &registryv1.TaskRecord{TaskId: id, Url: "http://127.0.0.1/", Owner: "c", Replicas: []string{"d"}, Scheduler: "s", Epoch: 1}
		invalidate(r)
		return r
	}
	bad := map[string]func() error{
		"lost owner": func() error {
			_, err := n.ResolveTask(ctx, &registryv1.ResolveTaskRequest{TaskId: id, SchedulerId: "s", LostOwner: "a/b"})
			return err
		},
		"excluded": func() error {
			_, err := n.ResolveTask(ctx, &registryv1.ResolveTaskRequest{TaskId: id, SchedulerId: "s", Excluded: []string{"a/b"}})
			return err
		},
		"repair": func() error {
			_, err := n.RepairTask(ctx, &registryv1.RepairTaskRequest{TaskId: id})
			return err
		},
		"move": func() error {
			_, err := n.MoveTask(ctx, &registryv1.MoveTaskRequest{TaskId: id, To: "a/b"})
			return err
		},
		"epoch": func() error {
			_, err := n.MoveTask(ctx, &registryv1.MoveTaskRequest{TaskId: id, Epoch: -1})
			return err
		},
		"resign": func() error {
			_, err := n.ResignTask(ctx, &registryv1.ResignTaskRequest{TaskId: "x", CdnId: "c"})
			return err
		},
		"announcer": func() error {
			_, err := n.AnnounceCopies(ctx, &registryv1.AnnounceCopiesRequest{})
			return err
		},
		"too many copies": func() error {
			_, err := n.AnnounceCopies(ctx, announcement("c", 0, 501))
			return err
		},
		"copy": func() error {
			_, err := n.AnnounceCopies(ctx, &registryv1.AnnounceCopiesRequest{CdnId: "c", Copies: []*registryv1.Copy{{TaskId: id}}})
			return err
		},
		"drain": func() error {
			_, err := n.DrainMember(ctx, &registryv1.DrainMemberRequest{Id: "c", Drain: true})
			return err
		},
		"forget": func() error {
			_, err := n.ForgetMember(ctx, &registryv1.ForgetMemberRequest{Role: registryv1.Role_ROLE_CDN})
			return err
		},
		"roles": func() error {
			_, err := n.ListMembers(ctx, &registryv1.ListMembersRequest{Roles: []registryv1.Role{99}})
			return err
		},
	}
	for name, invalidate := range map[string]func(*registryv1.TaskRecord){
		"of another task": func(r *registryv1.TaskRecord) { r.TaskId = taskID(2) },
		"without owner":   func(r *registryv1.TaskRecord) { r.Owner = "" },
		"twice":           func(r *registryv1.TaskRecord) { r.Replicas = []string{"c"} },
		"epoch":           func(r *registryv1.TaskRecord) { r.Epoch = math.MaxInt64 },
		"below 0":         func(r *registryv1.TaskRecord) { r.Epoch = -1 },
		"url":             func(r *registryv1.TaskRecord) { r.Url = "/f" },
		"scheduler":       func(r *registryv1.TaskRecord) { r.Scheduler = "a/b" },
		"source":          func(r *registryv1.TaskRecord) { r.Source = &registryv1.SourceIdentity{Length: -2} },
	} {
		last := record(invalidate)
		bad["last "+name] = func() error {
			_, err := n.ResolveTask(ctx, &registryv1.ResolveTaskRequest{TaskId: id, SchedulerId: "s", Last: last})
			return err
		}
	}
	for name, call := range bad {
		err := call()
		require.Equal(t, codes.InvalidArgument, status.Code(err), "%s: %v", name, err)
	}
	_, err := untilStored(t, n.AnnounceCopies, announcement("c", 0, 1))
	require.Equal(t, rpcerr.NoCDN, rpcerr.ReasonOf(err))
	_, err = untilStored(t, n.RepairTask, &registryv1.RepairTaskRequest{TaskId: id, CdnId: "c"})
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
}
