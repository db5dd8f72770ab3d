package ownership_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"

	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func TestProposalReplacesLostOwnersAndChoosesOnesForNewTasks(t *testing.T) {
	cluster := clusterOf(2, "a", "b", "c-", "s:s")
	propose := func(cur record.Task, r ownership.Resolve) record.Task {
		t.Helper()
		got, err := ownership.Propose(cur, cluster, r)
		require.NoError(t, err)
		return got
	}
	req := ownership.Resolve{Scheduler: "r", URL: "http://h/"}
	unknown := propose(record.Task{ID: "t"}, req)
	require.Equal(t, []any{[]string(nil), "r", int64(0)}, assignment(unknown)[1:])
	req.Last = &unknown
	require.Equal(t, unknown, propose(record.Task{ID: "t"}, req), "the owner of the first proposal keeps the task")
	req.LostOwner = unknown.Owner
	again := propose(record.Task{ID: "t"}, req)
	require.NotEqual(t, unknown.Owner, again.Owner)
	require.Zero(t, again.Epoch)

	last := recordOf("a", "b")
	lost := ownership.Resolve{Scheduler: "s", Last: &last, LostOwner: "a"}
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, assignment(propose(recordOf("a", "b"), lost)))
	require.Equal(t, []any{"b", []string{"a"}, "s", int64(5)}, assignment(propose(record.Task{ID: "t"}, lost)), "from the last record of the caller")
	_, err := ownership.Propose(record.Task{ID: "t"}, clusterOf(2, "c-"), ownership.Resolve{Scheduler: "r"})
	require.Equal(t, rpcerr.NoCDN, rpcerr.ReasonOf(err))
}
