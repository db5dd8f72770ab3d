package gateway_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/services/gateway"
)

func TestFrozenSchedulerIsSkipped(t *testing.T) { inMemNetwork(t, testFrozenSchedulerIsSkipped) }

func testFrozenSchedulerIsSkipped(t *memNetwork) {
	s := schedulersInOrder(2)
	t.serve(s[1])
	gw := t.startWith(gateway.Config{}, view{t.frozen(s[0].id), {ID: s[1].id, Endpoint: s[1].endpoint}})
	require.Equal(t, 200, gw.post("/peer/registry", good).code())
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", gw.get(pullA).raw)
	require.Equal(t, 611, gw.get(sucA).code())
	require.Equal(t, 200, gw.get(errorA).code())
	require.Equal(t, 612, gw.get(downA).code())
	require.Equal(t, 1, gw.post("/task/metrics", countA).code())
	require.Len(t, s[1].calls(), 6)
}

func TestFrozenOnlySchedulerGivesAWait(t *testing.T) {
	inMemNetwork(t, testFrozenOnlySchedulerGivesAWait)
}

func testFrozenOnlySchedulerGivesAWait(t *memNetwork) {
	gw := t.startWith(gateway.Config{MaxHold: 2 * time.Second, CallBudget: 2500 * time.Millisecond}, view{t.frozen("s1")})
	got := gw.get(pullA)
	require.Equal(t, 602, got.code())
	require.Contains(t, got.raw, "answers no ping")
	require.Equal(t, 611, gw.get(sucA).code())
}

func TestPullHeldByAFrozenSchedulerLeavesTimeForAnother(t *testing.T) {
	inMemNetwork(t, testPullHeldByAFrozenSchedulerLeavesTimeForAnother)
}

func testPullHeldByAFrozenSchedulerLeavesTimeForAnother(t *memNetwork) {
	s := schedulersInOrder(2)
	var thawed atomic.Bool
	s[0].pull = func(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		if thawed.Load() {
			return waitAnswer("nothing yet"), nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s[0].health = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	gw := t.start(gateway.Config{}, s...)
	var wait atomic.Int64
	s[1].pull = func(_ context.Context, in *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		if thawed.Load() {
			return nil, notOwner(s[0])
		}
		wait.Store(int64(in.GetMaxWait().AsDuration()))
		return waitAnswer("taken over"), nil
	}
	require.Equal(t, `{"code":602,"msg":"taken over"}`+"\n", gw.get(pullA).raw)
	require.Positive(t, wait.Load(), "a part of the hold is left")
	require.Len(t, s[0].calls(), 1)
	// For the next task it is not called at first, until another scheduler names it
	// as the owner.
	other := strings.ReplaceAll(pullA, taskA, otherTaskAt(t, s))
	require.Equal(t, `{"code":602,"msg":"taken over"}`+"\n", gw.get(other).raw)
	require.Len(t, s[0].calls(), 1)
	thawed.Store(true)
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", gw.get(other).raw)
	require.Len(t, s[0].calls(), 2)
}

// otherTaskAt returns a task other than taskA whose hash names the same scheduler
// first.
func otherTaskAt(t *memNetwork, s []*scheduler) string {
	t.Helper()
	nodes := make([]ring.Node, len(s))
	for i := range s {
		nodes[i].ID = s[i].id
	}
	for i := range 1000 {
		if task := fmt.Sprintf("%064x", i); ring.Order(task, nodes)[0].ID == s[0].id {
			return task
		}
	}
	require.Fail(t, "no such task")
	return ""
}

// Many pulls are held for the time of several health checks.
func TestPullsHeldByAHealthySchedulerAreNotEnded(t *testing.T) {
	inMemNetwork(t, testPullsHeldByAHealthySchedulerAreNotEnded)
}

func testPullsHeldByAHealthySchedulerAreNotEnded(t *memNetwork) {
	s := schedulersInOrder(2)
	var checks atomic.Int32
	enough := make(chan struct{})
	s[0].health = func(context.Context) error {
		if checks.Add(1) == 3 {
			close(enough)
		}
		return nil
	}
	s[0].pull = func(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		select {
		case <-enough:
			return waitAnswer("held"), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	gw := t.start(gateway.Config{}, s...)
	const many = 20
	var group sync.WaitGroup
	answers := make(chan string, many)
	for range many {
		group.Go(func() { answers <- gw.get(pullA).raw })
	}
	group.Wait()
	for range many {
		require.Equal(t, `{"code":602,"msg":"held"}`+"\n", <-answers)
	}
	require.Empty(t, s[1].calls())
	require.Less(t, checks.Load(), int32(many), "the pulls share the health checks")
	gw.requireNoWarnings()
}
