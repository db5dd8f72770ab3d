package taskmanager

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/follower"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// registerAt registers a peer for another task than the cluster's usual one.
func (w *testCluster) registerAt(id, peer string) error {
	w.t.Helper()
	_, err := w.manager.Register(w.t.Context(), id, "http://source/other", follower.Source{URL: "http://source/other"}, swarm.PeerInfo{ID: peer})
	return err
}

func TestFullSchedulerRefusesNewTasksAndServesItsOwn(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.manager.cfg.MaxTasks = 1
	w.kill()
	_, err := w.register("p")
	require.NoError(t, err)
	err = w.registerAt(strings.Repeat("0b", 32), "p")
	require.Equal(t, rpcerr.LimitReached, rpcerr.ReasonOf(err))
	require.Equal(t, codes.ResourceExhausted, rpcerr.From(err).Code)
	require.ErrorContains(t, err, "1 tasks (--max-tasks)")
	_, err = w.register("q")
	require.NoError(t, err, "the task exists")
	require.NoError(t, testutil.GatherAndCompare(w.metrics, strings.NewReader(`
# HELP supernode_scheduler_limit_refusals_total Calls that were refused because the task has too many peers or the scheduler too many tasks, by bound.
# TYPE supernode_scheduler_limit_refusals_total counter
supernode_scheduler_limit_refusals_total{bound="peers"} 0
supernode_scheduler_limit_refusals_total{bound="tasks"} 1
`), "supernode_scheduler_limit_refusals_total"))
}

func TestFullSchedulerTakesOverTheTasksOfADeadOne(t *testing.T) {
	t.Parallel()
	w := newTestCluster(t)
	w.manager.cfg.MaxTasks = 1
	w.kill()
	require.NoError(t, w.registerAt(strings.Repeat("0b", 32), "x"))
	w.setRecord(&registryv1.TaskRecord{TaskId: taskID, Owner: "cdn", Scheduler: "other", Epoch: 5})
	w.replicate()
	answer, err := w.pull("p", 0)
	require.NoError(t, err)
	require.NotEmpty(t, answer.Offers)
	require.Equal(t, 2, w.manager.Count())
	_, err = w.register("new")
	require.NoError(t, err, "the task exists")
}
