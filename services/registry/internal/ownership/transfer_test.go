package ownership_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func TestRepairReplacesLostOwnersAndReplicas(t *testing.T) {
	for name, c := range map[string]struct {
		cur     record.Task
		cluster ownership.Cluster
		want    []any
		kind    ownership.Kind
	}{
		"replica gone":    {recordOf("a", "b"), clusterOf(2, "a", "c"), []any{"a", []string{"c"}, "s", int64(4)}, ownership.KindReplicas},
		"owner gone":      {recordOf("a", "b"), clusterOf(2, "b", "c"), []any{"b", []string{"c"}, "s", int64(5)}, ownership.KindRepair},
		"replica drains":  {recordOf("a", "b"), clusterOf(2, "a", "b-", "c"), []any{"a", []string{"b", "c"}, "s", int64(4)}, ownership.KindReplicas},
		"no CDN to place": {recordOf("a", "c"), clusterOf(2, "a"), []any{"a", []string{}, "s", int64(4)}, ownership.KindReplicas},
		"another zone":    {recordOf("a"), clusterOf(2, "a@x", "b@x", "c@y"), []any{"a", []string{"c"}, "s", int64(4)}, ownership.KindReplicas},
	} {
		t.Run(name, func(t *testing.T) {
			step := next(t, c.cur, c.cluster, ownership.Repair{CDN: c.want[0].(string)})
			require.Equal(t, c.want, assignment(step.Next))
			require.Equal(t, c.kind, step.Kind)
			require.True(t, step.Changed)
			for _, id := range c.cur.Copies() {
				require.Equal(t, !step.Next.Names(id), slices.Contains(step.Absent, cdns(id)[0]), "%s is dropped because it is gone", id)
			}
			for _, id := range step.Next.Copies() {
				if !c.cur.Names(id) {
					require.Contains(t, step.Present, cdns(id)[0])
				}
			}
		})
	}
	require.False(t, next(t, recordOf("a", "b"), clusterOf(2, "a", "b", "c"), ownership.Repair{CDN: "b"}).Changed)
	require.False(t, next(t, recordOf("a", "b", "c"), clusterOf(2, "a", "b", "c"), ownership.Repair{CDN: "b"}).Changed, "an additional copy stays")
	requireRefused(t, record.Task{ID: "t"}, clusterOf(2, "a"), ownership.Repair{CDN: "a"}, rpcerr.TaskNotFound)
	requireRefused(t, recordOf("a", "b"), clusterOf(2, "a", "b"), ownership.Repair{CDN: "c"}, rpcerr.StaleEpoch)
}

func TestMoveMakesTheFormerOwnerAReplica(t *testing.T) {
	cluster := clusterOf(2, "a-", "b", "c")
	require.Equal(t, []any{"b", []string{"a", "c"}, "s", int64(5)}, assignment(next(t, recordOf("a", "b"), cluster, ownership.Move{Epoch: 4}).Next))
	require.Equal(t, []any{"c", []string{"b", "a"}, "s", int64(5)}, assignment(next(t, recordOf("a", "b"), cluster, ownership.Move{To: "c"}).Next))
	require.False(t, next(t, recordOf("b", "a"), clusterOf(2, "a", "b"), ownership.Move{To: "b"}).Changed)
	step := next(t, recordOf("a"), clusterOf(1, "a-", "c"), ownership.Move{})
	require.Equal(t, []any{"c", []string{"a"}, "s", int64(5)}, assignment(step.Next))
	require.Equal(t, record.StatusRunning, step.Next.Status, "the new owner has no copy yet")
	require.NotNil(t, step.Next.Source)

	requireRefused(t, recordOf("a", "b"), cluster, ownership.Move{Epoch: 3}, rpcerr.StaleEpoch)
	requireRefused(t, recordOf("a", "b"), cluster, ownership.Move{To: "a"}, rpcerr.NoCDN)
	requireRefused(t, recordOf("a", "b"), cluster, ownership.Move{To: "x"}, rpcerr.NoCDN)
	requireRefused(t, recordOf("a", "b"), clusterOf(2, "a", "b-"), ownership.Move{}, rpcerr.NoCDN)
	requireRefused(t, record.Task{ID: "t"}, cluster, ownership.Move{}, rpcerr.TaskNotFound)
}

func TestResignRemovesTheCDN(t *testing.T) {
	cluster := clusterOf(2, "a", "b", "c")
	require.Equal(t, []any{"a", []string{"c"}, "s", int64(4)}, assignment(next(t, recordOf("a", "b"), cluster, ownership.Resign{CDN: "b"}).Next))
	require.Equal(t, []any{"b", []string{"c"}, "s", int64(5)}, assignment(next(t, recordOf("a", "b"), cluster, ownership.Resign{CDN: "a"}).Next))
	require.Equal(t, []any{"a", []string{}, "s", int64(4)}, assignment(next(t, recordOf("a", "b"), clusterOf(2, "a", "b"), ownership.Resign{CDN: "b"}).Next),
		"the CDN that resigned is not chosen again")
	require.False(t, next(t, recordOf("a", "b"), cluster, ownership.Resign{CDN: "c"}).Changed)
	require.False(t, next(t, record.Task{ID: "t"}, cluster, ownership.Resign{CDN: "c"}).Changed)
	requireRefused(t, recordOf("a"), clusterOf(2, "a"), ownership.Resign{CDN: "a"}, rpcerr.NoCDN)
}
