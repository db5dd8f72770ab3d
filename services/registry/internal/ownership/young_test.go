package ownership_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func TestYoungStoreKeepsOwnersAndCopiesThatAreNotMembers(t *testing.T) {
	cluster := clusterOf(2, "b", "c", "s:r")
	cluster.Young = true
	cur := recordOf("a", "d")
	step := next(t, cur, cluster, ownership.Resolve{Scheduler: "s", URL: "http://h/"})
	require.False(t, step.Changed, "%v", step.Next)
	step = next(t, cur, cluster, ownership.Resolve{Scheduler: "r", URL: "http://h/"})
	require.False(t, step.Changed, "the scheduler is not a member either: %v", step.Next)
	cur = recordOf("a", "b")
	step = next(t, cur, cluster, ownership.Repair{CDN: "b"})
	require.False(t, step.Changed, "%v", step.Next)

	cluster.Young = false
	step = next(t, cur, cluster, ownership.Repair{CDN: "b"})
	require.Equal(t, []any{"b", []string{"c"}, "s", int64(5)}, assignment(step.Next))
	require.Equal(t, cdns("a"), step.Absent)
}

// The key of an owner that is reported as lost need not be absent, and its copy stays in
// the record.
func TestYoungStoreReplacesAnOwnerThatIsReportedAsLost(t *testing.T) {
	cluster := clusterOf(2, "b", "s:s")
	cluster.Young = true
	cur := recordOf("a", "b")
	last := cur
	step := next(t, cur, cluster, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"})
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, assignment(step.Next))
	require.Empty(t, step.Absent)
	require.Equal(t, record.StatusSuccess, step.Next.Status)
}

// The owner in the record need not be a member yet: the task would have no record until
// the owner's next heartbeat.
func TestYoungStoreAcceptsARestoredRecord(t *testing.T) {
	cluster := clusterOf(2, "b", "s:s")
	cluster.Young = true
	last := recordOf("a", "b")
	step := next(t, record.Task{ID: last.ID}, cluster, ownership.Resolve{Scheduler: "s", Last: &last})
	require.Equal(t, []any{"a", []string{"b"}, "s", last.Epoch}, assignment(step.Next))
	require.NotContains(t, step.Present, cdns("a")[0])
	require.Empty(t, step.Absent)
}
