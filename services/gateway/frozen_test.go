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
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/services/gateway"
)

func TestFrozenSchedulerIsPassedOver(t *testing.T) { inMemory(t, testFrozenSchedulerIsPassedOver) }

func testFrozenSchedulerIsPassedOver(t *memory) {
	s := inOrder(2)
	t.serve(s[1])
	w := t.startWith(gateway.Config{}, view{t.frozen(s[0].id), {ID: s[1].id, Endpoint: s[1].endpoint}})
	require.Equal(t, 200, w.post("/peer/registry", good).code())
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", w.get(pullA).raw)
	require.Equal(t, 611, w.get(sucA).code())
	require.Equal(t, 200, w.get(errorA).code())
	require.Equal(t, 612, w.get(downA).code())
	require.Equal(t, 1, w.post("/task/metrics", countA).code())
	require.Len(t, s[1].calls(), 6)
}

func TestFrozenSchedulerAlone(t *testing.T) { inMemory(t, testFrozenSchedulerAlone) }

func testFrozenSchedulerAlone(t *memory) {
	w := t.startWith(gateway.Config{MaxHold: 2 * time.Second, CallBudget: 2500 * time.Millisecond}, view{t.frozen("s1")})
	got := w.get(pullA)
	require.Equal(t, 602, got.code())
	require.Contains(t, got.raw, "answers no ping")
	require.Equal(t, 611, w.get(sucA).code())
}

// TestSchedulerThatFreezesWhileItHoldsAPull leaves time for one that takes over.
func TestSchedulerThatFreezesWhileItHoldsAPull(t *testing.T) {
	inMemory(t, testSchedulerThatFreezesWhileItHoldsAPull)
}

func testSchedulerThatFreezesWhileItHoldsAPull(t *memory) {
	s := inOrder(2)
	var thawed atomic.Bool
	s[0].pull = func(ctx context.Context, _ *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		if thawed.Load() {
			return waitAnswer("nothing yet"), nil
		}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	s[0].health = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	w := t.start(gateway.Config{}, s...)
	var wait atomic.Int64
	s[1].pull = func(_ context.Context, in *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		if thawed.Load() {
			return nil, notOwner(s[0])
		}
		wait.Store(int64(in.GetMaxWait().AsDuration()))
		return waitAnswer("taken over"), nil
	}
	require.Equal(t, `{"code":602,"msg":"taken over"}`+"\n", w.get(pullA).raw)
	require.Positive(t, wait.Load(), "there is something left of the hold")
	require.Len(t, s[0].calls(), 1)
	// Nor does it cost the next task anything, unless it turns out to be alive.
	other := strings.ReplaceAll(pullA, taskA, alsoFirstAt(t, s))
	require.Equal(t, `{"code":602,"msg":"taken over"}`+"\n", w.get(other).raw)
	require.Len(t, s[0].calls(), 1)
	thawed.Store(true)
	require.Equal(t, `{"code":602,"msg":"nothing yet"}`+"\n", w.get(other).raw)
	require.Len(t, s[0].calls(), 2)
}

// alsoFirstAt gives another task than taskA that the hash gives to the same
// scheduler.
func alsoFirstAt(t *memory, s []*scheduler) string {
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

// TestHeldPullIsNoSilence holds a pull for several pings, with many others.
func TestHeldPullIsNoSilence(t *testing.T) { inMemory(t, testHeldPullIsNoSilence) }

func testHeldPullIsNoSilence(t *memory) {
	s := inOrder(2)
	var pings atomic.Int32
	enough := make(chan struct{})
	s[0].health = func(context.Context) error {
		if pings.Add(1) == 3 {
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
	w := t.start(gateway.Config{}, s...)
	const many = 20
	var group sync.WaitGroup
	answers := make(chan string, many)
	for range many {
		group.Go(func() { answers <- w.get(pullA).raw })
	}
	group.Wait()
	for range many {
		require.Equal(t, `{"code":602,"msg":"held"}`+"\n", <-answers)
	}
	require.Empty(t, s[1].calls())
	require.Less(t, pings.Load(), int32(many), "one ping is for all who wait")
	w.quiet()
}

// TestDrainingSchedulersComeLast wants new tasks to go to those that stay, and
// known ones to where they are.
func TestDrainingSchedulersComeLast(t *testing.T) {
	s := inOrder(3)
	serve(t, s...)
	members := view{}
	for i, one := range s {
		members = append(members, cluster.Member{ID: one.id, Endpoint: one.endpoint, Draining: i == 0})
	}
	w := startWith(t, gateway.Config{}, members)
	require.Equal(t, 602, w.get(pullA).code())
	require.Empty(t, s[0].calls())
	require.Len(t, s[1].calls(), 1)
	s[1].pull, s[2].pull = pullAlways(notOwner(s[0])), pullAlways(notOwner(s[0]))
	require.Equal(t, 602, w.get(pullA).code())
	require.Equal(t, 602, w.get(pullA).code())
	require.Len(t, s[0].calls(), 2)
	require.Len(t, s[1].calls(), 2)
}
