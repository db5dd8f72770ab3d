package reconciler_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// always returns a function that always returns the same record.
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
	// If the member that precedes this instance leaves too, this instance repairs.
	require.Equal(t, []string{"repair first"}, h.allCalls())
	h.setMembers(self)
	h.eventually(func() bool { return h.callCount("repair second") > 0 })
	require.Zero(t, h.callCount("repair replica"), "a replica may return")
	require.Zero(t, h.callCount("repair right"), "a replica may return")
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
	require.Zero(t, h.callCount("repair d"), "the owner is a member and repairs the record itself")
}

func TestNoRepairWithoutMembershipOrCompleteStream(t *testing.T) {
	t.Parallel()
	h := start(t, time.Nanosecond)
	// This instance is not a member: its list of members may be outdated.
	h.setMembers("z")
	h.sendTasks(t, completeMessage(newRecord("a", 1, "x", self)))
	h.awaitStandings("a@1:x[x] ")
	h.breakStream()
	h.sendTasks(t, recordsMessage(newRecord("b", 1, "x", self)))
	h.setMembers(self, "z") // the stream is not complete yet
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
	h.setMembers(self, "x") // x has returned
	close(hold)
	h.reconciler.Stale(task.ID(idOf("then")))
	h.eventually(func() bool { return h.callCount("get then") > 0 })
	require.Len(t, h.allCalls(), 9)
}
