package reconciler_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

func refuseNoCDN(int) (*record, error) {
	return nil, rpcerr.Status(rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "nobody takes it")).Err()
}

// always answers always the same.
func always(r *record) func(int) (*record, error) {
	return func(int) (*record, error) { return r, nil }
}

func TestOnlyTheFirstMemberOfARecordRepairs(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	h.onCall("repair first", always(newRecord("first", 2, self, "y")))
	h.onCall("repair second", always(newRecord("second", 2, "x", self)))
	h.onCall("repair last", always(newRecord("last", 2, self, "y")))
	h.sendTasks(t, completeMessage(newRecord("first", 1, "x", self, "y"), newRecord("second", 1, "x", "y", self),
		newRecord("replica", 1, self, "x"), newRecord("right", 1, self, "y")))
	h.eventually(func() bool { return strings.Count(h.standings(), "@") == 4 })
	h.setMembers(self, "y")
	h.eventually(func() bool { return strings.Contains(h.standings(), "first@2:self[y]") })
	// When the other that could have repaired is gone too, it falls to this one.
	require.Equal(t, []string{"repair first"}, h.allCalls())
	h.setMembers(self)
	h.eventually(func() bool { return h.callCount("repair second") > 0 })
	require.Zero(t, h.callCount("repair replica"), "a replica may come back")
	require.Zero(t, h.callCount("repair right"), "a replica may come back")
}

func TestReplicaIsReplacedAfterReplaceDelay(t *testing.T) {
	t.Parallel()
	h := start(t, time.Millisecond)
	h.setMembers(self, "x", "y")
	h.onCall("repair a", always(bumpRevision(newRecord("a", 1, self, "y"), 1)))
	h.sendTasks(t, completeMessage(newRecord("a", 1, self, "x"), newRecord("b", 1, "y", self, "x")))
	h.awaitStandings("a@1:self[x] b@1:y[y x] ")
	h.setMembers(self, "y")
	h.awaitStandings("a@1:self[y] b@1:y[y x] ")
	require.Equal(t, []string{"repair a"}, h.allCalls())
}

func TestMissingCopyIsPlacedWhenACDNJoins(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "-x")
	h.sendTasks(t, completeMessage(newRecord("a", 1, self), newRecord("b", 1, self, "-x"), newRecord("c", 1, self, "x"), newRecord("d", 1, "x", self)))
	h.eventually(func() bool { return strings.Count(h.standings(), "@") == 4 })
	require.Empty(t, h.allCalls())
	for _, name := range []string{"a", "c"} {
		h.onCall("repair "+name, always(bumpRevision(newRecord(name, 1, self, "y"), 1)))
	}
	h.setMembers(self, "-x", "y")
	h.eventually(func() bool { return h.callCount("repair a") > 0 && h.callCount("repair c") > 0 })
	require.Zero(t, h.callCount("repair d"), "the owner is there and sees to it")
}

func TestNoRepairWithoutMembershipOrCompleteStream(t *testing.T) {
	t.Parallel()
	h := start(t, time.Nanosecond)
	// Not a member itself, which the list may be too old to say.
	h.setMembers("z")
	h.sendTasks(t, completeMessage(newRecord("a", 1, "x", self)))
	h.awaitStandings("a@1:x[x] ")
	h.breakStream()
	h.sendTasks(t, recordsMessage(newRecord("b", 1, "x", self)))
	h.setMembers(self, "z") // but not all records are known yet
	h.awaitStandings("a@1:x[x] b@1:x[x] ")
	h.reconciler.Stale(task.ID(idOf("then")))
	h.eventually(func() bool { return h.callCount("get then") > 0 })
	require.Equal(t, []string{"get then"}, h.allCalls())
	h.onCall("repair b", always(newRecord("b", 2, self, "z")))
	h.sendTasks(t, completeMessage())
	h.awaitStandings("b@2:self[z] ")
}

func TestOwnerThatWasNeverAMemberIsNotReplacedAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "y")
	h.onCall("repair b", always(newRecord("b", 2, self, "x")))
	h.sendTasks(t, completeMessage(newRecord("a", 1, "x", self), newRecord("b", 1, "y", self)))
	h.awaitStandings("a@1:x[x] b@1:y[y] ")
	h.setMembers(self)
	h.awaitStandings("a@1:x[x] b@2:self[x] ")
	require.Zero(t, h.callCount("repair a"))
}

func TestRepairsAreBoundedAndRetried(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	const tasks = 100
	var all []*record
	for i := range tasks {
		name := fmt.Sprint("t", i)
		all = append(all, newRecord(name, 1, "x", self, "y"))
		h.onCall("repair "+name, func(n int) (*record, error) {
			if n <= 2 {
				return nil, status.Error(codes.Unavailable, "not now")
			}
			return newRecord(name, 2, self, "y"), nil
		})
	}
	hold := make(chan struct{})
	h.scriptedRegistry.mu.Lock()
	h.blockCalls = hold
	h.scriptedRegistry.mu.Unlock()
	h.sendTasks(t, completeMessage(all...))
	h.eventually(func() bool { return strings.Count(h.standings(), "@1") == tasks })
	h.setMembers(self, "y")
	h.eventually(func() bool { return len(h.allCalls()) == 8 })
	close(hold)
	h.eventually(func() bool { return strings.Count(h.standings(), "@2:self[y]") == tasks })
	require.Len(t, h.allCalls(), 3*tasks)
	h.scriptedRegistry.mu.Lock()
	defer h.scriptedRegistry.mu.Unlock()
	require.Equal(t, 8, h.maxRunning)
}

func TestQueuedRepairIsSkippedIfTheOwnerReturns(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x")
	const tasks = 20
	var all []*record
	for i := range tasks {
		name := fmt.Sprint("t", i)
		all = append(all, newRecord(name, 1, "x", self))
		h.onCall("repair "+name, always(newRecord(name, 1, "x", self)))
	}
	hold := make(chan struct{})
	h.scriptedRegistry.mu.Lock()
	h.blockCalls = hold
	h.scriptedRegistry.mu.Unlock()
	h.sendTasks(t, completeMessage(all...))
	h.eventually(func() bool { return strings.Count(h.standings(), "@1") == tasks })
	h.setMembers(self)
	h.eventually(func() bool { return len(h.allCalls()) == 8 })
	h.setMembers(self, "x") // it was away for a moment
	close(hold)
	h.reconciler.Stale(task.ID(idOf("then")))
	h.eventually(func() bool { return h.callCount("get then") > 0 })
	require.Len(t, h.allCalls(), 9)
}

func TestHandoverMovesOwnedTasksAndWaitsForCopies(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"), inventoryOf("b"), inventoryOf("kept"), inventoryOf("replica"))
	h.setMembers(self, "x", "y")
	h.sendTasks(t, completeMessage(newRecord("a", 1, self, "x"), newRecord("b", 5, self, "y"), newRecord("empty", 1, self, "x"),
		newRecord("kept", 1, self, "x"), newRecord("replica", 1, "x", self)))
	h.eventually(func() bool { return strings.Count(h.standings(), "@") == 5 })
	h.onCall("move@1 a", always(newRecord("a", 2, "x", self)))
	h.onCall("move@5 b", func(n int) (*record, error) {
		if n == 1 {
			return nil, status.Error(codes.Unavailable, "not now")
		}
		return newRecord("b", 6, "y", self), nil
	})
	h.onCall("move@1 empty", always(newRecord("empty", 2, "x", self)))
	h.onCall("move@1 kept", refuseNoCDN)
	ended := make(chan error, 1)
	go func() { ended <- h.reconciler.Handover(t.Context()) }()
	// What is not whole here is given away at once, the rest when it is whole there.
	h.awaitStandings("a@1:self[x] b@5:self[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ")
	h.otherCDNs.addWhole("b")
	h.awaitStandings("a@1:self[x] b@6:y[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ")
	h.otherCDNs.addWhole("kept")
	h.eventually(func() bool { return h.callCount("move@1 kept") > 0 })
	require.Empty(t, ended, "nobody has what is owned here")
	h.otherCDNs.addWhole("a")
	require.NoError(t, <-ended)
	require.Equal(t, "a@2:x[x] b@6:y[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ", h.standings())
	for _, call := range h.allCalls() {
		require.NotContains(t, call, "replica")
		require.NotContains(t, call, "repair")
	}
}

func TestHandoverPlacesACopyBeforeItMovesTheOnlyOne(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"))
	h.setMembers(self, "x")
	h.onCall("repair a", always(bumpRevision(newRecord("a", 1, self, "x"), 1)))
	h.onCall("move@1 a", always(newRecord("a", 2, "x", self)))
	h.sendTasks(t, &watchResponse{Records: []*record{newRecord("a", 1, self)}, Replicas: 1, Complete: true})
	h.awaitStandings("a@1:self[] ")
	ended := make(chan error, 1)
	go func() { ended <- h.reconciler.Handover(t.Context()) }()
	h.awaitStandings("a@1:self[x] ")
	require.Equal(t, []string{"repair a"}, h.allCalls())
	h.otherCDNs.addWhole("a")
	require.NoError(t, <-ended)
	require.Equal(t, []string{"repair a", "move@1 a"}, h.allCalls())
}

func TestHandoverMovesTasksWithoutCopiesBeforeItsDeadline(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testHandoverMovesTasksWithoutCopiesBeforeItsDeadline)
}

func testHandoverMovesTasksWithoutCopiesBeforeItsDeadline(t *testing.T) {
	h := startInSynctest(t, never, inventoryOf("a"))
	h.setMembers(self, "x")
	h.onCall("move@1 a", always(newRecord("a", 2, "x", self)))
	h.sendTasks(t, completeMessage(newRecord("a", 1, self, "x")))
	h.awaitStandings("a@1:self[x] ")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	// A copy that does not come in time keeps nobody from having an owner.
	require.ErrorIs(t, h.reconciler.Handover(ctx), context.DeadlineExceeded)
	require.Equal(t, "a@2:x[x] ", h.standings())
}

func TestHandoverOfTheOnlyCDNEndsAtOnce(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"))
	h.setMembers("-" + self)
	h.sendTasks(t, completeMessage(newRecord("a", 1, self)))
	h.awaitStandings("a@1:self[] ")
	require.NoError(t, h.reconciler.Handover(t.Context()))
	require.Empty(t, h.allCalls())
}

func TestHandoverFailsIfNoRegistryIsAvailable(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"))
	h.setMembers(self, "x")
	h.sendTasks(t, completeMessage(newRecord("a", 1, self, "x")))
	h.awaitStandings("a@1:self[x] ")
	h.setUnavailable(true)
	h.breakStream()
	require.ErrorContains(t, h.reconciler.Handover(t.Context()), "no registry answers")
}

func TestDrainingMemberMovesItsTasks(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	h.onCall("move@1 a", always(newRecord("a", 2, "x", self)))
	h.onCall("move@1 b", refuseNoCDN)
	h.sendTasks(t, completeMessage(newRecord("a", 1, self, "x"), newRecord("b", 1, self, "x"), newRecord("c", 1, "x", self)))
	h.awaitStandings("a@1:self[x] b@1:self[x] c@1:x[x] ")
	h.setMembers("-"+self, "x", "y")
	h.awaitStandings("a@2:x[x] b@1:self[x] c@1:x[x] ")
	// It begins again with what nobody took when somebody comes.
	h.onCall("move@1 b", always(newRecord("b", 2, "z", self)))
	h.setMembers("-"+self, "x", "y", "z")
	h.awaitStandings("a@2:x[x] b@2:z[z] c@1:x[x] ")
	require.False(t, slices.Contains(h.allCalls(), "move@1 c"))
}
