package registry_test

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/supernode-ha/supernode/services/registry"
)

func TestWatchMembersSendsJoinsAndLeaves(t *testing.T) {
	t.Parallel()
	withEachStoreAndTTL(t, 2*time.Second, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		all, schedulers := watch(t, n[1]), watch(t, n[1], registryv1.Role_ROLE_SCHEDULER)
		all.until()
		schedulers.until()
		require.Equal(t, 2*time.Second, sendHeartbeats(t, n[0], cdn("b")).GetTtl().AsDuration())
		silence := keepAlive(t, n[0], cdn("b"))
		stop := keepAlive(t, n[0], scheduler("s"))
		keepAlive(t, n[0], cdn("a"))
		got := all.until("s", "a", "b")
		require.True(t, proto.Equal(cdn("a"), got[1]), "the member is sent with all fields: %v", got[1])
		schedulers.until("s")

		silence()
		all.until("s", "a")
		stop()
		for range 2 {
			_, err := untilStored(t, n[1].Leave, &registryv1.LeaveRequest{Role: registryv1.Role_ROLE_SCHEDULER, Id: "s"})
			require.NoError(t, err)
		}
		all.until("a")
		schedulers.until()
		// Its lease may have expired, and it may have joined again.
		require.Eventually(t, func() bool { return metric(t, n[1], "supernode_registry_members", "cdn") == 1 }, testTimeout, 20*time.Millisecond)
	})
}

func TestHeartbeatWithAnotherStateChangesTheMember(t *testing.T) {
	withEachStore(t, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		w := watch(t, n[1])
		keepAlive(t, n[0], scheduler("s"))
		ready, draining := cdn("a"), cdn("a")
		draining.State = registryv1.MemberState_MEMBER_STATE_DRAINING
		for i, m := range []*registryv1.Member{ready, draining, ready} {
			stop := keepAlive(t, n[i%2], m)
			for {
				if got := w.until("s", "a"); proto.Equal(got[1], m) {
					break
				}
			}
			stop()
		}
	})
}

// Otherwise the write rate of a cluster would grow with the number of its members.
func TestRenewalOfALeaseIsNotAWrite(t *testing.T) {
	e, began := startExternalEtcd(t), time.Now()
	a, b := startNode(t, registry.Config{Endpoints: []string{e.client.Host}}), startNode(t, registry.Config{Endpoints: []string{e.client.String()}})
	raw := e.raw()
	sendHeartbeats(t, a, cdn("c"))
	watch(t, b).until("c")
	writes := func(kind string) float64 {
		const name = "supernode_registry_store_writes_total"
		return metric(t, a, name, kind) + metric(t, b, name, kind)
	}
	all, eras := writes(""), writes("era")
	if time.Since(began) < promptTime {
		require.EqualValues(t, 1, eras, "one of them has written the era of the store")
		require.EqualValues(t, 2, all-eras, "a lease and a member")
	}
	before, err := raw.Status(testContext(t), e.client.Host)
	require.NoError(t, err)
	for range 50 {
		sendHeartbeats(t, a, cdn("c"))
		sendHeartbeats(t, b, cdn("c"))
	}
	after, err := raw.Status(testContext(t), e.client.Host)
	require.NoError(t, err)
	require.Equal(t, before.Header.Revision, after.Header.Revision)
	// etcd may have written its cluster version in the meantime.
	require.Less(t, after.RaftIndex-before.RaftIndex, uint64(10))
	require.EqualValues(t, all, writes(""))
}

func TestConcurrentHeartbeatsLeaveOneLease(t *testing.T) {
	e := startExternalEtcd(t)
	var nodes []*node
	for range 3 {
		nodes = append(nodes, startNode(t, registry.Config{Endpoints: []string{e.client.Host}}))
	}
	raw := e.raw()
	leases := func() []clientv3.LeaseStatus {
		resp, err := raw.Leases(testContext(t))
		require.NoError(t, err)
		return resp.Leases
	}
	for round := range 5 {
		began := time.Now()
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				_, err := untilStored(t, nodes[i%3].Heartbeat, &registryv1.HeartbeatRequest{Member: cdn("c")})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		held := leases()
		key, err := raw.Get(testContext(t), "/supernode/v1/members/cdn/c")
		require.NoError(t, err)
		require.Len(t, key.Kvs, 1)
		_, err = untilStored(t, nodes[round%3].Leave, &registryv1.LeaveRequest{Role: registryv1.Role_ROLE_CDN, Id: "c"})
		require.NoError(t, err)
		left := leases()
		if time.Since(began) > promptTime && len(held)+len(left) > 1 {
			// A call that has timed out may leave a lease, which expires.
			for _, l := range left {
				_, err := raw.Revoke(testContext(t), l.ID)
				require.NoError(t, err)
			}
			continue
		}
		require.Len(t, held, 1, "round %d", round)
		require.EqualValues(t, held[0].ID, key.Kvs[0].Lease)
		require.Empty(t, left)
	}
}

func TestHeartbeatRestoresAMemberThatWasDeletedOrGarbled(t *testing.T) {
	t.Parallel()
	e := startExternalEtcd(t)
	n := startNode(t, registry.Config{Endpoints: []string{e.client.Host}, LeaseTTL: 2 * time.Second})
	raw, key := e.raw(), "/supernode/v1/members/cdn/c"
	w := watch(t, n)
	stop := keepAlive(t, n, cdn("c"))
	w.until("c")
	stop()
	damage := map[string]func() error{
		"deleted": func() error { _, err := raw.Delete(testContext(t), key); return err },
		"emptied": func() error { _, err := raw.Delete(testContext(t), "/", clientv3.WithPrefix()); return err },
		"garbled": func() error { _, err := raw.Put(testContext(t), key, "{"); return err },
	}
	for name, apply := range damage {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, apply())
			w.until()
			defer keepAlive(t, n, cdn("c"))()
			w.until("c")
			var got *clientv3.GetResponse
			require.Eventually(t, func() bool { // the lease may have expired, and the member may have joined again
				var err error
				got, err = raw.Get(testContext(t), key)
				return err == nil && len(got.Kvs) == 1
			}, testTimeout, 20*time.Millisecond)
			require.NotZero(t, got.Kvs[0].Lease)
		})
	}
}

func TestInvalidMembersAreRefused(t *testing.T) {
	n := startNode(t, registry.Config{EmbeddedDir: t.TempDir()})
	bad := map[string]func(*registryv1.Member){
		"no id":            func(m *registryv1.Member) { m.Id = "" },
		"id with slash":    func(m *registryv1.Member) { m.Id = "../x" },
		"no role":          func(m *registryv1.Member) { m.Role = 0 },
		"unknown role":     func(m *registryv1.Member) { m.Role = 99 },
		"no endpoint":      func(m *registryv1.Member) { m.Endpoint = "" },
		"no port":          func(m *registryv1.Member) { m.Endpoint = "127.0.0.1" },
		"port 0":           func(m *registryv1.Member) { m.Endpoint = "127.0.0.1:0" },
		"port too big":     func(m *registryv1.Member) { m.Endpoint = "127.0.0.1:65536" },
		"no host":          func(m *registryv1.Member) { m.Endpoint = ":8001" },
		"no state":         func(m *registryv1.Member) { m.State = 0 },
		"capacity below 0": func(m *registryv1.Member) { m.Capacity = -1 },
		"IPv6 download":    func(m *registryv1.Member) { m.DownloadIp = "::1" },
		"no download port": func(m *registryv1.Member) { m.DownloadPort = 0 },
		"line in zone":     func(m *registryv1.Member) { m.Zone = "a\nb" },
	}
	for name, invalidate := range bad {
		t.Run(name, func(t *testing.T) {
			m := cdn("c")
			invalidate(m)
			_, err := n.Heartbeat(testContext(t), &registryv1.HeartbeatRequest{Member: m})
			require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
		})
	}
	_, err := n.Heartbeat(testContext(t), &registryv1.HeartbeatRequest{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = n.Leave(testContext(t), &registryv1.LeaveRequest{Id: "c"})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	w, err := n.WatchMembers(testContext(t), &registryv1.WatchMembersRequest{Roles: []registryv1.Role{0}})
	require.NoError(t, err)
	_, err = w.Recv()
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}
