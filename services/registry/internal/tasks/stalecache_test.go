package tasks_test

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/tasks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "00000000000000000000000000000000000000000000000000000000000000aa"

// instance is the store and the tasks of one registry. No watch updates its cache, which
// has only what the test puts into it and what the instance has written.
type instance struct {
	cache *cache.Cache
	store *etcdstore.Store
	tasks *tasks.Tasks
}

// twoInstances returns two instances with one embedded etcd.
func twoInstances(t *testing.T) (a, b instance) {
	t.Helper()
	conn := etcdconn.New(etcdconn.Config{EmbeddedDir: t.TempDir()}, zap.NewNop())
	ctx, cancel := context.WithCancel(context.Background())
	open, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- conn.Run(ctx, func(ctx context.Context) error {
			close(open)
			<-ctx.Done()
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	<-open
	newInstance := func() instance {
		c := cache.New()
		m, err := metrics.New(prometheus.NewRegistry(), c.Counts)
		require.NoError(t, err)
		s := etcdstore.New(conn, c, m, zap.NewNop(), 10*time.Second)
		return instance{cache: c, store: s, tasks: tasks.New(tasks.Deps{Store: s, Cache: c, Metrics: m, Log: zap.NewNop(), Copies: 2})}
	}
	return newInstance(), newInstance()
}

func member(role record.Role, id string) record.Member {
	return record.Member{
		Role: role, ID: id, Endpoint: "127.0.0.1:1", DownloadIP: "127.0.0.1", DownloadPort: 1, State: record.StateReady,
	}
}

func (i instance) join(t *testing.T, members ...record.Member) {
	t.Helper()
	for _, m := range members {
		_, err := i.store.Heartbeat(t.Context(), m)
		require.NoError(t, err)
	}
}

func (i instance) resolve(t *testing.T, scheduler string) tasks.Resolved {
	t.Helper()
	got, err := i.tasks.Resolve(t.Context(), id, ownership.Resolve{URL: "http://127.0.0.1/", Scheduler: scheduler})
	require.NoError(t, err)
	return got
}

func TestEmptyCacheDoesNotCauseATakeover(t *testing.T) {
	a, b := twoInstances(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"))
	claimed := a.resolve(t, "s").Task
	got := b.resolve(t, "other")
	require.Equal(t, claimed, got.Task)
	require.Equal(t, "c", got.Owner.ID)
	require.Equal(t, "s", got.Scheduler.ID)
}

func TestCacheWithoutOwnerAndSchedulerDoesNotCauseATakeover(t *testing.T) {
	a, b := twoInstances(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"))
	claimed := a.resolve(t, "s").Task
	// The cache of b has the record and another CDN, and neither owner nor scheduler.
	b.join(t, member(record.RoleCDN, "d"))
	b.cache.ApplyWrite("", cache.Change{Revision: claimed.Revision, Task: &claimed})
	require.Equal(t, claimed, b.resolve(t, "other").Task)
}

func TestCDNThatOnlyTheCacheHasIsNotChosen(t *testing.T) {
	a, b := twoInstances(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"))
	for _, dead := range []string{"x", "y", "z"} {
		lease := cache.Lease{Member: member(record.RoleCDN, dead), ID: 1, Revision: 1}
		b.cache.ApplyWrite("", cache.Change{Revision: 1, Member: &lease})
	}
	require.Equal(t, "c", b.resolve(t, "s").Task.Owner)
}

func TestSchedulerThatIsNotAMemberCannotClaim(t *testing.T) {
	a, b := twoInstances(t)
	a.join(t, member(record.RoleCDN, "c"))
	scheduler := member(record.RoleScheduler, "s")
	refused := func(from instance) {
		t.Helper()
		_, err := from.tasks.Resolve(t.Context(), id, ownership.Resolve{URL: "http://127.0.0.1/", Scheduler: "s"})
		require.Equal(t, rpcerr.NoScheduler, rpcerr.ReasonOf(err), "%v", err)
		require.Equal(t, codes.FailedPrecondition, rpcerr.From(err).Code)
	}
	// It is not a member yet.
	refused(a)
	_, err := a.tasks.Get(t.Context(), id, false)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err), "nothing was written")
	// It has sent its heartbeat to another registry.
	a.join(t, scheduler)
	require.Equal(t, "s", b.resolve(t, "s").Task.Scheduler)
	// It is not a member any more, but the cache of a still has it.
	require.NoError(t, b.tasks.Delete(t.Context(), id, 1))
	require.NoError(t, b.store.Leave(t.Context(), scheduler.Key()))
	lease := cache.Lease{Member: scheduler, ID: 1, Revision: 1}
	a.cache.Replace(cache.Snapshot{Revision: 1, Members: []cache.Lease{lease}})
	refused(a)
	// It is not a member any more, and its task needs another owner.
	a.join(t, scheduler)
	claimed := a.resolve(t, "s").Task
	require.NoError(t, a.store.Leave(t.Context(), scheduler.Key()))
	require.NoError(t, a.store.Leave(t.Context(), claimed.OwnerKey()))
	a.join(t, member(record.RoleCDN, "d"))
	refused(a)
	got, err := a.tasks.Get(t.Context(), id, false)
	require.NoError(t, err)
	require.Equal(t, claimed, got)
}

func TestOutdatedCacheIsNoReasonToRefuseACaller(t *testing.T) {
	a, b := twoInstances(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"), member(record.RoleScheduler, "s2"))
	old := a.resolve(t, "s").Task
	b.cache.ApplyWrite("", cache.Change{Revision: old.Revision, Task: &old})
	require.NoError(t, a.store.Leave(t.Context(), record.MemberKey{Role: record.RoleScheduler, ID: "s"}))
	now := a.resolve(t, "s2").Task
	require.EqualValues(t, 2, now.Epoch)

	// The owner of epoch 2 calls a registry whose cache has epoch 1.
	_, err := b.tasks.Update(t.Context(), tasks.Update{ID: id, Owner: "c", Epoch: 2, Status: record.StatusRunning})
	require.NoError(t, err)
	// The owner of epoch 1 is refused although the cache has epoch 1.
	b.cache.Replace(cache.Snapshot{Revision: old.Revision, Tasks: []record.Task{old}})
	_, err = b.tasks.Update(t.Context(), tasks.Update{ID: id, Owner: "c", Epoch: 1, Status: record.StatusFailed})
	require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(err))
	require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(b.tasks.Delete(t.Context(), id, 1)))
	require.NoError(t, b.tasks.Delete(t.Context(), id, 2))
	_, err = b.tasks.Get(t.Context(), id, false)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
}
