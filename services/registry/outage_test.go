package registry_test

import (
	"context"
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

func requireUnavailable(t *testing.T, err error) {
	t.Helper()
	require.Equal(t, codes.Unavailable, status.Code(err), "%v", err)
	require.Equal(t, rpcerr.StoreUnavailable, rpcerr.ReasonOf(err))
}

func TestKnownStateIsServedWhileEtcdIsStopped(t *testing.T) {
	e := startExternalEtcd(t)
	n := startNode(t, registry.Config{Endpoints: []string{e.client.Host}})
	sendHeartbeats(t, n, cdn("c"), scheduler("s"))
	w := watch(t, n)
	w.until("s", "c")
	known := claim(t, n, 1, "s")
	for s := watchTasks(t, n, registryv1.Role_ROLE_SCHEDULER, "s"); s.known[taskID(1)] == nil; {
		s.next() // until the cache has the record
	}
	before := metric(t, n, "supernode_registry_unclaimed_total", "")

	dir := e.dir()
	e.stop()
	_, err := n.Heartbeat(testContext(t), &registryv1.HeartbeatRequest{Member: cdn("c")})
	requireUnavailable(t, err)
	unknown := resolve(t, n, 2, "s")
	require.True(t, unknown.GetUnclaimed())
	require.Equal(t, []any{"c", "s", int64(0)}, []any{unknown.GetRecord().GetOwner(), unknown.GetRecord().GetScheduler(), unknown.GetRecord().GetEpoch()})
	require.Equal(t, "c", unknown.GetOwner().GetId())
	require.EqualValues(t, 1, metric(t, n, "supernode_registry_unclaimed_total", "")-before)
	_, err = n.GetTask(testContext(t), &registryv1.GetTaskRequest{TaskId: taskID(1), Fresh: true})
	requireUnavailable(t, err)
	_, err = n.GetTask(testContext(t), &registryv1.GetTaskRequest{TaskId: taskID(1)})
	require.NoError(t, err)
	_, err = n.UpdateTask(testContext(t), &registryv1.UpdateTaskRequest{TaskId: taskID(1), Owner: "c", Epoch: 1, PieceSize: 1})
	requireUnavailable(t, err)
	_, err = n.Leave(testContext(t), &registryv1.LeaveRequest{Role: registryv1.Role_ROLE_CDN, Id: "c"})
	requireUnavailable(t, err)
	require.True(t, proto.Equal(known, resolve(t, n, 1, "s")), "the answer for a known task is the same")
	require.Equal(t, "c", resolve(t, n, 1, "another").GetRecord().GetOwner())
	watch(t, n).until("s", "c")

	e.start(dir)
	defer keepAlive(t, n, cdn("c"), scheduler("s"), scheduler("t"))()
	// The stream continues, and no list lacks the members from before.
	for {
		resp, err := w.stream.Recv()
		require.NoError(t, err)
		require.Contains(t, idsOf(resp), "c")
		if len(resp.GetMembers()) == 3 {
			break
		}
	}
	require.EqualValues(t, 1, claim(t, n, 1, "s").GetRecord().GetEpoch())
	req := resolveRequest(2, "s")
	req.Last = unknown.GetRecord()
	claimed, err := untilStored(t, n.ResolveTask, req)
	require.NoError(t, err)
	require.Equal(t, "c", claimed.GetRecord().GetOwner())
	require.EqualValues(t, 1, claimed.GetRecord().GetEpoch())
}

// The empty etcd has lower revisions than the watch waits for.
func TestCacheFollowsAnEtcdThatReplacesTheFormerOne(t *testing.T) {
	e := startExternalEtcd(t)
	n := startNode(t, registry.Config{Endpoints: []string{e.client.Host}, LeaseTTL: 6 * time.Second})
	w := watch(t, n)
	for i := range 10 {
		sendHeartbeats(t, n, cdn("c"), scheduler("s"))
		claim(t, n, i, "s")
	}
	w.until("s", "c")
	e.stop()
	e.start(t.TempDir())
	w.until()
	sendHeartbeats(t, n, cdn("c"))
	_, err := n.GetTask(testContext(t), &registryv1.GetTaskRequest{TaskId: taskID(1)})
	require.Equal(t, codes.NotFound, status.Code(err))
	defer keepAlive(t, n, cdn("c"), scheduler("s"))()
	w.until("s", "c")
	require.EqualValues(t, 1, claim(t, n, 1, "s").GetRecord().GetEpoch())
}

func TestCallsFailAndStopWorksIfEtcdWasNeverReachable(t *testing.T) {
	reg := registry.Config{Endpoints: []string{"127.0.0.1:1"}}
	n := startNodeUnready(t, reg)
	_, err := n.Heartbeat(testContext(t), &registryv1.HeartbeatRequest{Member: cdn("c")})
	requireUnavailable(t, err)
	ctx, cancel := context.WithCancel(testContext(t))
	w, err := n.WatchMembers(ctx, &registryv1.WatchMembersRequest{})
	require.NoError(t, err)
	require.NoError(t, n.stop())
	_, err = w.Recv()
	require.Error(t, err, "streams end when the registry stops")
	cancel()
}

func TestRegistryListsAgainIfItsRevisionWasCompactedDuringAnOutage(t *testing.T) {
	e := startExternalEtcd(t)
	n := startNode(t, registry.Config{Endpoints: []string{e.client.Host}})
	sendHeartbeats(t, n, cdn("c"))
	watch(t, n).until("c")
	dir := e.dir()
	e.stop()
	// The registry does not receive these writes, because etcd is at another address.
	hidden := *e.client
	e.client.Host = "127.0.0.1:0"
	e.start(dir)
	raw := e.raw()
	var last *clientv3.PutResponse
	value := `{"taskId":"` + taskID(7) + `","owner":"c","scheduler":"s","epoch":"5","status":"TASK_STATUS_SUCCESS"}`
	for range 20 {
		var err error
		last, err = raw.Put(testContext(t), "/supernode/v1/tasks/"+taskID(7), value)
		require.NoError(t, err)
	}
	_, err := raw.Compact(testContext(t), last.Header.Revision, clientv3.WithCompactPhysical())
	require.NoError(t, err)
	e.stop()
	*e.client = hidden
	e.start(dir)
	w := watch(t, n)
	defer keepAlive(t, n, cdn("c"), cdn("d"))()
	for {
		resp, err := w.stream.Recv()
		require.NoError(t, err)
		if len(resp.GetMembers()) > 0 && resp.GetMembers()[len(resp.GetMembers())-1].GetId() == "d" {
			break
		}
	}
	// The record is not found while the store is slow and the cache does not have it yet.
	require.Eventually(t, func() bool {
		got, err := n.GetTask(testContext(t), &registryv1.GetTaskRequest{TaskId: taskID(7)})
		return err == nil && got.GetRecord().GetEpoch() == 5
	}, testTimeout, 20*time.Millisecond)
}

func TestRecordThatCannotBeDecodedIsReplacedByAClaim(t *testing.T) {
	e := startExternalEtcd(t)
	n := startNode(t, registry.Config{Endpoints: []string{e.client.Host}})
	defer keepAlive(t, n, cdn("c"), scheduler("s"))()
	_, err := e.raw().Put(testContext(t), "/supernode/v1/tasks/"+taskID(1), "not JSON")
	require.NoError(t, err)
	_, err = e.raw().Put(testContext(t), "/supernode/v1/else/where", "not ours")
	require.NoError(t, err)
	require.Equal(t, "c", claim(t, n, 1, "s").GetRecord().GetOwner())
}
