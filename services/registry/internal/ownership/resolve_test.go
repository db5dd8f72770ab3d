package ownership_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func TestClaimSetsOwnerReplicasAndScheduler(t *testing.T) {
	step := next(t, record.Task{ID: "t"}, clusterOf(2, "a", "b-", "c", "s:s"), ownership.Resolve{Scheduler: "s", URL: "http://h/"})
	require.ElementsMatch(t, []string{"a", "c"}, step.Next.Copies())
	require.Equal(t, []any{"s", int64(1), record.StatusWaiting, "http://h/", ownership.KindClaim},
		[]any{step.Next.Scheduler, step.Next.Epoch, step.Next.Status, step.Next.URL, step.Kind})
	require.ElementsMatch(t, append(cdns("a", "c"), record.MemberKey{Role: record.RoleScheduler, ID: "s"}), step.Present)
	require.Empty(t, step.Absent)
}

func TestClaimIsRefusedWithoutCDNSchedulerOrURL(t *testing.T) {
	none, req := record.Task{ID: "t"}, ownership.Resolve{Scheduler: "s", URL: "http://h/"}
	requireRefused(t, none, clusterOf(2, "a-", "s:s"), req, rpcerr.NoCDN)
	requireRefused(t, none, clusterOf(2, "a"), req, rpcerr.NoScheduler)
	requireRefused(t, none, clusterOf(2, "a", "s:s"), ownership.Resolve{Scheduler: "s"}, rpcerr.InvalidArgument)
	requireRefused(t, recordOf("a", "b"), clusterOf(2, "b"), ownership.Resolve{Scheduler: "s"}, rpcerr.NoScheduler)
	_, err := ownership.Next(none, clusterOf(2, "a-", "s:s"), req)
	require.Equal(t, codes.FailedPrecondition, rpcerr.From(err).Code)
}

func TestRecordWithLiveOwnerAndSchedulerDoesNotChange(t *testing.T) {
	for _, cluster := range []ownership.Cluster{
		clusterOf(2, "a", "b", "s:s"), clusterOf(3, "a", "b", "c", "s:s"), clusterOf(2, "a", "s:s"), clusterOf(2, "a-", "b", "s:s"),
	} {
		for _, scheduler := range []string{"s", "other"} {
			require.False(t, next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: scheduler}).Changed)
		}
	}
}

func TestOwnerThatIsNotAMemberIsReplaced(t *testing.T) {
	for name, c := range map[string]struct {
		cur     record.Task
		cluster ownership.Cluster
		want    []any
		facts   bool
	}{
		"first READY replica":           {recordOf("a", "b", "c"), clusterOf(2, "b-", "c", "s:s"), []any{"c", []string{"b"}, "s", int64(5)}, true},
		"lost copy is placed again":     {recordOf("a", "b"), clusterOf(2, "b", "c", "s:s"), []any{"b", []string{"c"}, "s", int64(5)}, true},
		"new CDN before draining copy":  {recordOf("a", "b"), clusterOf(1, "b-", "c", "s:s"), []any{"c", []string{"b"}, "s", int64(5)}, true},
		"draining copy without another": {recordOf("a", "b"), clusterOf(2, "b-", "s:s"), []any{"b", []string{}, "s", int64(5)}, true},
		"new CDN without copies":        {recordOf("a", "b"), clusterOf(2, "c", "s:s"), []any{"c", []string{}, "s", int64(5)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			step := next(t, c.cur, c.cluster, ownership.Resolve{Scheduler: "s"})
			require.Equal(t, c.want, assignment(step.Next))
			require.Contains(t, step.Absent, cdns("a")[0])
			require.Contains(t, step.Present, step.Next.OwnerKey())
			require.Equal(t, ownership.KindOwner, step.Kind)
			require.Equal(t, c.facts, step.Next.Source != nil && step.Next.PieceSize == 4)
			if !c.facts {
				require.Equal(t, record.StatusWaiting, step.Next.Status)
			}
		})
	}
}

func TestLostOwnerThatIsAMemberBecomesAReplica(t *testing.T) {
	last, cluster := recordOf("a", "b"), clusterOf(2, "a", "b", "c", "s:s")
	step := next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"})
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, assignment(step.Next))
	require.Empty(t, step.Absent, "the new epoch refuses its writes")

	step = next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a", Excluded: []string{"b"}})
	require.Equal(t, []any{"c", []string{"b", "a"}, "s", int64(5)}, assignment(step.Next))
	require.Equal(t, record.StatusRunning, step.Next.Status, "the new owner gets the pieces from the replicas")

	requireRefused(t, recordOf("a", "b"), clusterOf(2, "a", "b", "s:s"), ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a", Excluded: []string{"b"}}, rpcerr.NoCDN)
	requireRefused(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "s", LostOwner: "a"}, rpcerr.InvalidArgument)
	require.Equal(t, "b", next(t, recordOf("a", "b"), clusterOf(2, "b", "s:s"), ownership.Resolve{Scheduler: "s", LostOwner: "a"}).Next.Owner,
		"an owner that is not a member is lost in any epoch")
	last.Epoch = 3
	require.False(t, next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"}).Changed, "the owner was lost in an earlier epoch")
}

func TestLostSchedulerIsReplaced(t *testing.T) {
	last, cluster := recordOf("a", "b"), clusterOf(2, "a", "b", "s:s", "s:r")
	step := next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "r", Last: &last, LostScheduler: "s"})
	require.Equal(t, []any{"a", []string{"b"}, "r", int64(5)}, assignment(step.Next))
	require.Equal(t, ownership.KindScheduler, step.Kind)
	requireRefused(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "r", LostScheduler: "s"}, rpcerr.InvalidArgument)

	step = next(t, recordOf("a", "b"), clusterOf(2, "a", "s:r"), ownership.Resolve{Scheduler: "r"})
	require.Equal(t, []any{"a", []string{"b"}, "r", int64(5)}, assignment(step.Next), "the replicas are not repaired")
	require.Equal(t, []record.MemberKey{{Role: record.RoleScheduler, ID: "s"}}, step.Absent)

	step = next(t, recordOf("a", "b"), clusterOf(2, "b", "s:r"), ownership.Resolve{Scheduler: "r"})
	require.Equal(t, []any{"b", []string{}, "r", int64(5)}, assignment(step.Next), "owner and scheduler are replaced in one step")
}

func TestFailedTaskIsWaitingAfterAChangeOfOwner(t *testing.T) {
	cur := recordOf("a", "b")
	cur.Status, cur.Source, cur.PieceSize = record.StatusFailed, nil, 0
	require.Equal(t, record.StatusWaiting, next(t, cur, clusterOf(2, "b", "s:s"), ownership.Resolve{Scheduler: "s"}).Next.Status)
	require.Equal(t, record.StatusWaiting, next(t, cur, clusterOf(2, "a", "b"), ownership.Move{}).Next.Status)
}

func TestRestoredRecordKeepsAllCopies(t *testing.T) {
	last, none := recordOf("a", "b"), record.Task{ID: "t"}
	req := ownership.Resolve{Scheduler: "s", URL: "http://h/", Last: &last}
	step := next(t, none, clusterOf(3, "a", "c", "s:s"), req)
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(4)}, assignment(step.Next))
	require.Equal(t, ownership.KindRestored, step.Kind)
	require.Equal(t, last.Source, step.Next.Source)

	step = next(t, none, clusterOf(2, "b", "c", "s:s"), req)
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, assignment(step.Next), "an owner that is not a member yet becomes a replica")
	step = next(t, none, clusterOf(2, "c", "s:s"), req)
	require.Equal(t, []any{"c", []string{"b", "a"}, "s", int64(5)}, assignment(step.Next))
	req.Scheduler = "r"
	step = next(t, none, clusterOf(2, "a", "b", "s:r"), req)
	require.Equal(t, []any{"a", []string{"b"}, "r", int64(5)}, assignment(step.Next))
}

func TestEpochThatACallerHasReceivedIsNotAssignedAgain(t *testing.T) {
	cluster := clusterOf(2, "a", "b", "s:s")
	last := recordOf("b", "a")
	step := next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "s", Last: &last})
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(5)}, assignment(step.Next), "the epoch had another owner")
	last.Epoch, last.Source = 9, &record.Source{Length: 9, ETag: "w"}
	require.EqualValues(t, 10, next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "s", Last: &last}).Next.Epoch)
	last = recordOf("a", "b")
	last.Epoch = 9
	require.EqualValues(t, 9, next(t, recordOf("a", "b"), cluster, ownership.Resolve{Scheduler: "s", Last: &last}).Next.Epoch)

	c := record.Copy{ID: "t", URL: "http://h/", Source: &record.Source{Length: 9, ETag: "v"}, PieceSize: 4, Epoch: 7, Whole: true}
	require.EqualValues(t, 8, next(t, record.Task{ID: "t"}, cluster, ownership.Announce{CDN: "a", Copy: c}).Next.Epoch)
	require.EqualValues(t, 8, next(t, recordOf("a", "b"), cluster, ownership.Announce{CDN: "a", Copy: c}).Next.Epoch)
	c.Epoch = 4
	require.False(t, next(t, recordOf("a", "b"), cluster, ownership.Announce{CDN: "a", Copy: c}).Changed)
}

// The record in the store is older than the owner that was proposed while the store was
// unavailable.
func TestOwnerInANewerLastRecordIsRestored(t *testing.T) {
	last, cluster := recordOf("b", "a"), clusterOf(2, "a", "b", "c", "s:s")
	last.Epoch = 5
	req := ownership.Resolve{Scheduler: "s", Last: &last}
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, assignment(next(t, recordOf("a", "b"), cluster, req).Next))
	require.Equal(t, []any{"b", []string{}, "s", int64(5)}, assignment(next(t, recordOf("a", "b"), clusterOf(2, "b", "s:s"), req).Next))
	last.Epoch = 9
	fresh := recordOf("c", "a")
	fresh.Source, fresh.PieceSize, fresh.Status, fresh.Epoch = nil, 0, record.StatusWaiting, 1
	step := next(t, fresh, cluster, req)
	require.Equal(t, []any{"b", []string{"a", "c"}, "s", int64(9)}, assignment(step.Next))
	require.Equal(t, last.Source, step.Next.Source)

	other := recordOf("c", "a")
	other.Source = &record.Source{Length: 9, ETag: "w"}
	require.Equal(t, []any{"c", []string{"a"}, "s", int64(10)}, assignment(next(t, other, cluster, req).Next), "the record has another version of the source")
	req.LostOwner = "b"
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(10)}, assignment(next(t, recordOf("a", "b"), cluster, req).Next))
	require.Equal(t, []any{"a", []string{"b"}, "s", int64(10)}, assignment(next(t, recordOf("a", "b"), clusterOf(2, "a", "b-", "s:s"), ownership.Resolve{Scheduler: "s", Last: &last}).Next))
}

func TestTaskThatStartedDuringAnOutageIsClaimedForItsOwner(t *testing.T) {
	cluster := clusterOf(2, "a", "b", "c", "s:s")
	for _, began := range []string{"a", "b", "c"} {
		last := record.Task{ID: "t", Owner: began, Scheduler: "s", URL: "http://h/", Status: record.StatusWaiting}
		step := next(t, record.Task{ID: "t"}, cluster, ownership.Resolve{Scheduler: "s", Last: &last, URL: "http://h/"})
		require.Equal(t, []any{began, int64(1), ownership.KindClaim}, []any{step.Next.Owner, step.Next.Epoch, step.Kind})
		require.Len(t, step.Next.Replicas, 1)
	}
}
