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

// side is one registry's store and tasks, whose copy nobody keeps in step: it
// shows what a test puts into it and what this side itself wrote.
type side struct {
	cache *cache.Cache
	store *etcdstore.Store
	tasks *tasks.Tasks
}

// twoSides gives two registries over one real etcd.
func twoSides(t *testing.T) (a, b side) {
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
	make1 := func() side {
		c := cache.New()
		m, err := metrics.New(prometheus.NewRegistry(), c.Counts)
		require.NoError(t, err)
		s := etcdstore.New(conn, c, m, zap.NewNop(), 10*time.Second)
		return side{cache: c, store: s, tasks: tasks.New(tasks.Deps{Store: s, Cache: c, Metrics: m, Log: zap.NewNop(), Copies: 2})}
	}
	return make1(), make1()
}

func member(role record.Role, id string) record.Member {
	return record.Member{
		Role: role, ID: id, Endpoint: "127.0.0.1:1", DownloadIP: "127.0.0.1", DownloadPort: 1, State: record.StateReady,
	}
}

func (s side) join(t *testing.T, members ...record.Member) {
	t.Helper()
	for _, m := range members {
		_, err := s.store.Heartbeat(t.Context(), m)
		require.NoError(t, err)
	}
}

func (s side) resolve(t *testing.T, scheduler string) tasks.Resolved {
	t.Helper()
	got, err := s.tasks.Resolve(t.Context(), id, ownership.Resolve{URL: "http://127.0.0.1/", Scheduler: scheduler})
	require.NoError(t, err)
	return got
}

func TestCopyThatKnowsNobodyTakesNothing(t *testing.T) {
	a, b := twoSides(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"))
	claimed := a.resolve(t, "s").Task
	got := b.resolve(t, "other")
	require.Equal(t, claimed, got.Task)
	require.Equal(t, "c", got.Owner.ID)
	require.Equal(t, "s", got.Scheduler.ID)
}

func TestCopyThatMissesLiveOwnerAndScheduler(t *testing.T) {
	a, b := twoSides(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"))
	claimed := a.resolve(t, "s").Task
	// b knows the record and another CDN, and thinks owner and scheduler gone.
	b.join(t, member(record.RoleCDN, "d"))
	b.cache.ApplyWrite("", cache.Change{Revision: claimed.Revision, Task: &claimed})
	require.Equal(t, claimed, b.resolve(t, "other").Task)
}

func TestCopyThatShowsDeadCDN(t *testing.T) {
	a, b := twoSides(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"))
	for _, dead := range []string{"x", "y", "z"} {
		lease := cache.Lease{Member: member(record.RoleCDN, dead), ID: 1, Revision: 1}
		b.cache.ApplyWrite("", cache.Change{Revision: 1, Member: &lease})
	}
	require.Equal(t, "c", b.resolve(t, "s").Task.Owner)
}

func TestCallerThatIsNoMemberClaimsNothing(t *testing.T) {
	a, b := twoSides(t)
	a.join(t, member(record.RoleCDN, "c"))
	scheduler := member(record.RoleScheduler, "s")
	refused := func(from side) {
		t.Helper()
		_, err := from.tasks.Resolve(t.Context(), id, ownership.Resolve{URL: "http://127.0.0.1/", Scheduler: "s"})
		require.Equal(t, rpcerr.NoScheduler, rpcerr.ReasonOf(err), "%v", err)
		require.Equal(t, codes.FailedPrecondition, rpcerr.From(err).Code)
	}
	// Not yet,
	refused(a)
	_, err := a.tasks.Get(t.Context(), id, false)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err), "nothing was written")
	// one whose heartbeat another registry took,
	a.join(t, scheduler)
	require.Equal(t, "s", b.resolve(t, "s").Task.Scheduler)
	// any more, though this copy still shows it,
	require.NoError(t, b.tasks.Delete(t.Context(), id, 1))
	require.NoError(t, b.store.Leave(t.Context(), scheduler.Key()))
	lease := cache.Lease{Member: scheduler, ID: 1, Revision: 1}
	a.cache.Replace(cache.Snapshot{Revision: 1, Members: []cache.Lease{lease}})
	refused(a)
	// nor for a task of its own whose owner has gone.
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

func TestOldCopyRefusesNobody(t *testing.T) {
	a, b := twoSides(t)
	a.join(t, member(record.RoleCDN, "c"), member(record.RoleScheduler, "s"), member(record.RoleScheduler, "s2"))
	old := a.resolve(t, "s").Task
	b.cache.ApplyWrite("", cache.Change{Revision: old.Revision, Task: &old})
	require.NoError(t, a.store.Leave(t.Context(), record.MemberKey{Role: record.RoleScheduler, ID: "s"}))
	now := a.resolve(t, "s2").Task
	require.EqualValues(t, 2, now.Epoch)

	// The owner of epoch 2 is served by a registry that has seen epoch 1 only,
	_, err := b.tasks.Update(t.Context(), tasks.Update{ID: id, Owner: "c", Epoch: 2, Status: record.StatusRunning})
	require.NoError(t, err)
	// and epoch 1 is refused by one that has seen nothing else.
	b.cache.Replace(cache.Snapshot{Revision: old.Revision, Tasks: []record.Task{old}})
	_, err = b.tasks.Update(t.Context(), tasks.Update{ID: id, Owner: "c", Epoch: 1, Status: record.StatusFailed})
	require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(err))
	require.Equal(t, rpcerr.StaleEpoch, rpcerr.ReasonOf(b.tasks.Delete(t.Context(), id, 1)))
	require.NoError(t, b.tasks.Delete(t.Context(), id, 2))
	_, err = b.tasks.Get(t.Context(), id, false)
	require.Equal(t, rpcerr.TaskNotFound, rpcerr.ReasonOf(err))
}
