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

func TestMembersComeAndGo(t *testing.T) {
	t.Parallel()
	eachStoreFor(t, 2*time.Second, func(t *testing.T, nodes func(int) []*node) {
		n := nodes(2)
		all, schedulers := watch(t, n[1]), watch(t, n[1], registryv1.Role_ROLE_SCHEDULER)
		all.until()
		schedulers.until()
		require.Equal(t, 2*time.Second, beat(t, n[0], cdn("b")).GetTtl().AsDuration())
		silence := keepAlive(t, n[0], cdn("b"))
		stop := keepAlive(t, n[0], scheduler("s"))
		keepAlive(t, n[0], cdn("a"))
		got := all.until("s", "a", "b")
		require.True(t, proto.Equal(cdn("a"), got[1]), "the whole member is told: %v", got[1])
		schedulers.until("s")

		silence()
		all.until("s", "a")
		stop()
		for range 2 {
			_, err := patiently(t, n[1].Leave, &registryv1.LeaveRequest{Role: registryv1.Role_ROLE_SCHEDULER, Id: "s"})
			require.NoError(t, err)
		}
		all.until("a")
		schedulers.until()
		// It may have ended and come back.
		require.Eventually(t, func() bool { return metric(t, n[1], "supernode_registry_members", "cdn") == 1 }, patience, 20*time.Millisecond)
	})
}

func TestHeartbeatChangesTheMember(t *testing.T) {
	eachStore(t, func(t *testing.T, nodes func(int) []*node) {
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

// Renewals must not be writes: a cluster's write rate would grow with its members.
func TestRenewalIsNoWrite(t *testing.T) {
	e, began := startExternal(t), time.Now()
	a, b := startNode(t, registry.Config{Endpoints: []string{e.client.Host}}), startNode(t, registry.Config{Endpoints: []string{e.client.String()}})
	raw := e.raw()
	beat(t, a, cdn("c"))
	watch(t, b).until("c")
	writes := func(kind string) float64 {
		const name = "supernode_registry_store_writes_total"
		return metric(t, a, name, kind) + metric(t, b, name, kind)
	}
	all, eras := writes(""), writes("era")
	if time.Since(began) < prompt {
		require.EqualValues(t, 1, eras, "one of them began the store's era")
		require.EqualValues(t, 2, all-eras, "a lease and a member")
	}
	before, err := raw.Status(bounded(t), e.client.Host)
	require.NoError(t, err)
	for range 50 {
		beat(t, a, cdn("c"))
		beat(t, b, cdn("c"))
	}
	after, err := raw.Status(bounded(t), e.client.Host)
	require.NoError(t, err)
	require.Equal(t, before.Header.Revision, after.Header.Revision)
	// etcd itself may have written its cluster version meanwhile.
	require.Less(t, after.RaftIndex-before.RaftIndex, uint64(10))
	require.EqualValues(t, all, writes(""))
}

func TestManyRegistriesRenewOneMember(t *testing.T) {
	e := startExternal(t)
	var nodes []*node
	for range 3 {
		nodes = append(nodes, startNode(t, registry.Config{Endpoints: []string{e.client.Host}}))
	}
	raw := e.raw()
	leases := func() []clientv3.LeaseStatus {
		resp, err := raw.Leases(bounded(t))
		require.NoError(t, err)
		return resp.Leases
	}
	for round := range 5 {
		began := time.Now()
		var all sync.WaitGroup
		for i := range 30 {
			all.Go(func() {
				_, err := patiently(t, nodes[i%3].Heartbeat, &registryv1.HeartbeatRequest{Member: cdn("c")})
				if err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		held := leases()
		key, err := raw.Get(bounded(t), "/supernode/v1/members/cdn/c")
		require.NoError(t, err)
		require.Len(t, key.Kvs, 1)
		_, err = patiently(t, nodes[round%3].Leave, &registryv1.LeaveRequest{Role: registryv1.Role_ROLE_CDN, Id: "c"})
		require.NoError(t, err)
		left := leases()
		if time.Since(began) > prompt && len(held)+len(left) > 1 {
			// What is given up may leave a lease that ends by itself.
			for _, l := range left {
				_, err := raw.Revoke(bounded(t), l.ID)
				require.NoError(t, err)
			}
			continue
		}
		require.Len(t, held, 1, "round %d", round)
		require.EqualValues(t, held[0].ID, key.Kvs[0].Lease)
		require.Empty(t, left)
	}
}

// Whatever is done to the store behind the registry's back, the next
// heartbeat puts it right.
func TestHeartbeatRepairsTheStore(t *testing.T) {
	t.Parallel()
	e := startExternal(t)
	n := startNode(t, registry.Config{Endpoints: []string{e.client.Host}, LeaseTTL: 2 * time.Second})
	raw, key := e.raw(), "/supernode/v1/members/cdn/c"
	w := watch(t, n)
	stop := keepAlive(t, n, cdn("c"))
	w.until("c")
	stop()
	damage := map[string]func() error{
		"deleted": func() error { _, err := raw.Delete(bounded(t), key); return err },
		"emptied": func() error { _, err := raw.Delete(bounded(t), "/", clientv3.WithPrefix()); return err },
		"garbled": func() error { _, err := raw.Put(bounded(t), key, "{"); return err },
	}
	for name, harm := range damage {
		t.Run(name, func(t *testing.T) {
			require.NoError(t, harm())
			w.until()
			defer keepAlive(t, n, cdn("c"))()
			w.until("c")
			var got *clientv3.GetResponse
			require.Eventually(t, func() (there bool) { // it may have ended and come back
				var err error
				got, err = raw.Get(bounded(t), key)
				return err == nil && len(got.Kvs) == 1
			}, patience, 20*time.Millisecond)
			require.NotZero(t, got.Kvs[0].Lease)
		})
	}
}

func TestBadMembersAreRefused(t *testing.T) {
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
	for name, spoil := range bad {
		t.Run(name, func(t *testing.T) {
			m := cdn("c")
			spoil(m)
			_, err := n.Heartbeat(bounded(t), &registryv1.HeartbeatRequest{Member: m})
			require.Equal(t, codes.InvalidArgument, status.Code(err), "%v", err)
		})
	}
	_, err := n.Heartbeat(bounded(t), &registryv1.HeartbeatRequest{})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	_, err = n.Leave(bounded(t), &registryv1.LeaveRequest{Id: "c"})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
	w, err := n.WatchMembers(bounded(t), &registryv1.WatchMembersRequest{Roles: []registryv1.Role{0}})
	require.NoError(t, err)
	_, err = w.Recv()
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}
