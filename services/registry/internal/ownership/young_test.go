package ownership_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// In a young store nobody is lost for being no member, and all copies count.
func TestYoungStoreTakesNothingFromStrangers(t *testing.T) {
	w := cluster(2, "b", "c", "s:r")
	w.Young = true
	cur := held("a", "d")
	step := next(t, cur, w, ownership.Resolve{Scheduler: "s", URL: "http://h/"})
	require.False(t, step.Changed, "%v", step.Next)
	step = next(t, cur, w, ownership.Resolve{Scheduler: "r", URL: "http://h/"})
	require.False(t, step.Changed, "the scheduler is no member yet either: %v", step.Next)
	cur = held("a", "b")
	step = next(t, cur, w, ownership.Repair{CDN: "b"})
	require.False(t, step.Changed, "%v", step.Next)

	w.Young = false
	step = next(t, cur, w, ownership.Repair{CDN: "b"})
	require.Equal(t, []any{"b", []string{"c"}, "s", int64(5)}, hands(step.Next))
	require.Equal(t, cdns("a"), step.Gone)
}

// Whoever does not answer is lost, in a young store too; nothing is proven of
// him, and what he has is not forgotten.
func TestYoungStoreBelievesWhoLostTheOwner(t *testing.T) {
	w := cluster(2, "b", "s:s")
	w.Young = true
	cur := held("a", "b")
	last := cur
	step := next(t, cur, w, ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"})
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, hands(step.Next))
	require.Empty(t, step.Gone)
	require.Equal(t, record.StatusSuccess, step.Next.Status)
}

// A record that is put back names an owner who has not announced himself yet:
// waiting for him would leave the task without a record for as long.
func TestYoungStoreTakesRecordsBack(t *testing.T) {
	w := cluster(2, "b", "s:s")
	w.Young = true
	last := held("a", "b")
	step := next(t, record.Task{ID: last.ID}, w, ownership.Resolve{Scheduler: "s", Last: &last})
	require.Equal(t, []any{"a", []string{"b"}, "s", last.Epoch}, hands(step.Next))
	require.NotContains(t, step.There, cdns("a")[0])
	require.Empty(t, step.Gone)
}
