package task

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// requireFull requires the error that a client of a full task gets, and that it came at
// once.
func requireFull(t *testing.T, err error, since time.Time) {
	t.Helper()
	require.Equal(t, rpcerr.LimitReached, rpcerr.ReasonOf(err))
	require.Equal(t, codes.ResourceExhausted, rpcerr.From(err).Code)
	require.ErrorContains(t, err, "2 peers (--max-peers-per-task)")
	require.Equal(t, since, time.Now())
}

func TestFullTaskRefusesNewPeersAndServesItsOwn(t *testing.T) {
	metrics := prometheus.NewRegistry()
	inBoundedTask(t, 2, metrics, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "a", "b")
		_, err := task.Register(ctx, info("c"))
		requireFull(t, err, time.Now())
		_, err = task.Register(ctx, info("a"))
		require.NoError(t, err, "a peer that is registered already registers again")
		answer, err := task.Pull(ctx, Pull{PeerID: "b", Stage: Started})
		require.NoError(t, err)
		require.Len(t, answer.Offers, 1)

		require.NoError(t, task.Down(ctx, "a"))
		<-time.After(time.Minute)
		require.NoError(t, task.Expire(ctx, time.Now(), time.Time{}))
		_, err = task.Register(ctx, info("c"))
		require.NoError(t, err, "there is room once a peer has left")
	})
	require.NoError(t, testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP supernode_scheduler_limit_refusals_total Calls that were refused because the task has too many peers or the scheduler too many tasks, by bound.
# TYPE supernode_scheduler_limit_refusals_total counter
supernode_scheduler_limit_refusals_total{bound="peers"} 1
supernode_scheduler_limit_refusals_total{bound="tasks"} 0
`), "supernode_scheduler_limit_refusals_total"))
}

// The facts are not known, so a registration that was accepted would wait for them.
func TestFullTaskRefusesNewPeersBeforeTheSourceAnswers(t *testing.T) {
	inBoundedTask(t, 2, prometheus.NewRegistry(), func(ctx context.Context, task *Task) {
		for _, id := range []string{"a", "b"} {
			waiting, cancel := context.WithTimeout(ctx, time.Second)
			_, err := task.Register(waiting, info(id))
			require.ErrorIs(t, err, context.DeadlineExceeded)
			cancel()
		}
		began := time.Now()
		_, err := task.Register(ctx, info("c"))
		requireFull(t, err, began)
	})
}

func TestFullTaskAdoptsNoPeer(t *testing.T) {
	inBoundedTask(t, 2, prometheus.NewRegistry(), func(ctx context.Context, task *Task) {
		require.NoError(t, task.do(ctx, func() error {
			task.Restore(swarm.Update{Peers: []swarm.PeerUpdate{{PeerInfo: info("a")}, {PeerInfo: info("b")}, {PeerInfo: info("c")}}})
			return nil
		}))
		prepare(ctx, t, task, 1)
		_, err := task.Pull(ctx, Pull{PeerID: "unknown", Adopt: true, MaxWait: time.Second})
		requireFull(t, err, time.Now())
		for _, id := range []string{"a", "b", "c"} {
			_, err = task.Pull(ctx, Pull{PeerID: id, Adopt: true})
			require.NoError(t, err, "a restored task keeps the peers that it has")
		}
	})
}
