package keeper_test

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

func noCDN(int) (*record, error) {
	return nil, rpcerr.Status(rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "nobody takes it")).Err()
}

// gives answers always the same.
func gives(r *record) func(int) (*record, error) { return func(int) (*record, error) { return r, nil } }

func TestFirstMemberRepairs(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x", "y")
	b.answer("repair first", gives(rec("first", 2, self, "y")))
	b.answer("repair second", gives(rec("second", 2, "x", self)))
	b.answer("repair last", gives(rec("last", 2, self, "y")))
	b.tell(t, complete(rec("first", 1, "x", self, "y"), rec("second", 1, "x", "y", self),
		rec("replica", 1, self, "x"), rec("right", 1, self, "y")))
	b.until(func() bool { return strings.Count(b.has(), "@") == 4 })
	b.setMembers(self, "y")
	b.until(func() bool { return strings.Contains(b.has(), "first@2:self[y]") })
	// When the other that could have repaired is gone too, it falls to this one.
	require.Equal(t, []string{"repair first"}, b.allCalls())
	b.setMembers(self)
	b.until(func() bool { return b.count("repair second") > 0 })
	require.Zero(t, b.count("repair replica"), "a replica may come back")
	require.Zero(t, b.count("repair right"), "a replica may come back")
}

func TestReplicaThatStaysAwayIsReplaced(t *testing.T) {
	t.Parallel()
	b := start(t, time.Millisecond)
	b.setMembers(self, "x", "y")
	b.answer("repair a", gives(later(rec("a", 1, self, "y"), 1)))
	b.tell(t, complete(rec("a", 1, self, "x"), rec("b", 1, "y", self, "x")))
	b.untilHas("a@1:self[x] b@1:y[y x] ")
	b.setMembers(self, "y")
	b.untilHas("a@1:self[y] b@1:y[y x] ")
	require.Equal(t, []string{"repair a"}, b.allCalls())
}

func TestMissingCopyIsMadeWhenSomebodyCould(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "-x")
	b.tell(t, complete(rec("a", 1, self), rec("b", 1, self, "-x"), rec("c", 1, self, "x"), rec("d", 1, "x", self)))
	b.until(func() bool { return strings.Count(b.has(), "@") == 4 })
	require.Empty(t, b.allCalls())
	for _, name := range []string{"a", "c"} {
		b.answer("repair "+name, gives(later(rec(name, 1, self, "y"), 1)))
	}
	b.setMembers(self, "-x", "y")
	b.until(func() bool { return b.count("repair a") > 0 && b.count("repair c") > 0 })
	require.Zero(t, b.count("repair d"), "the owner is there and sees to it")
}

func TestNothingIsRepairedByWhoIsCutOff(t *testing.T) {
	t.Parallel()
	b := start(t, time.Nanosecond)
	// Not a member itself, which the list may be too old to say.
	b.setMembers("z")
	b.tell(t, complete(rec("a", 1, "x", self)))
	b.untilHas("a@1:x[x] ")
	b.cut()
	b.tell(t, records(rec("b", 1, "x", self)))
	b.setMembers(self, "z") // but not all records are known yet
	b.untilHas("a@1:x[x] b@1:x[x] ")
	b.keeper.Stale(task.ID(idOf("then")))
	b.until(func() bool { return b.count("get then") > 0 })
	require.Equal(t, []string{"get then"}, b.allCalls())
	b.answer("repair b", gives(rec("b", 2, self, "z")))
	b.tell(t, complete())
	b.untilHas("b@2:self[z] ")
}

func TestOwnerThatWasNeverSeenMayBeAboutToCome(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "y")
	b.answer("repair b", gives(rec("b", 2, self, "x")))
	b.tell(t, complete(rec("a", 1, "x", self), rec("b", 1, "y", self)))
	b.untilHas("a@1:x[x] b@1:y[y] ")
	b.setMembers(self)
	b.untilHas("a@1:x[x] b@2:self[x] ")
	require.Zero(t, b.count("repair a"))
}

func TestRepairsAreBoundedAndRepeatedUntilTheyAreTaken(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x", "y")
	const tasks = 100
	var all []*record
	for i := range tasks {
		name := fmt.Sprint("t", i)
		all = append(all, rec(name, 1, "x", self, "y"))
		b.answer("repair "+name, func(n int) (*record, error) {
			if n <= 2 {
				return nil, status.Error(codes.Unavailable, "not now")
			}
			return rec(name, 2, self, "y"), nil
		})
	}
	hold := make(chan struct{})
	b.script.mu.Lock()
	b.hold = hold
	b.script.mu.Unlock()
	b.tell(t, complete(all...))
	b.until(func() bool { return strings.Count(b.has(), "@1") == tasks })
	b.setMembers(self, "y")
	b.until(func() bool { return len(b.allCalls()) == 8 })
	close(hold)
	b.until(func() bool { return strings.Count(b.has(), "@2:self[y]") == tasks })
	require.Len(t, b.allCalls(), 3*tasks)
	b.script.mu.Lock()
	defer b.script.mu.Unlock()
	require.Equal(t, 8, b.busiest)
}

func TestWhatNeedsNoRepairAnyMoreIsNotAskedFor(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x")
	const tasks = 20
	var all []*record
	for i := range tasks {
		name := fmt.Sprint("t", i)
		all = append(all, rec(name, 1, "x", self))
		b.answer("repair "+name, gives(rec(name, 1, "x", self)))
	}
	hold := make(chan struct{})
	b.script.mu.Lock()
	b.hold = hold
	b.script.mu.Unlock()
	b.tell(t, complete(all...))
	b.until(func() bool { return strings.Count(b.has(), "@1") == tasks })
	b.setMembers(self)
	b.until(func() bool { return len(b.allCalls()) == 8 })
	b.setMembers(self, "x") // it was away for a moment
	close(hold)
	b.keeper.Stale(task.ID(idOf("then")))
	b.until(func() bool { return b.count("get then") > 0 })
	require.Len(t, b.allCalls(), 9)
}

func TestHandoverMovesWhatIsOwnedAndWaitsForCopies(t *testing.T) {
	t.Parallel()
	b := start(t, never, copyOf("a"), copyOf("b"), copyOf("kept"), copyOf("replica"))
	b.setMembers(self, "x", "y")
	b.tell(t, complete(rec("a", 1, self, "x"), rec("b", 5, self, "y"), rec("empty", 1, self, "x"),
		rec("kept", 1, self, "x"), rec("replica", 1, "x", self)))
	b.until(func() bool { return strings.Count(b.has(), "@") == 5 })
	b.answer("move@1 a", gives(rec("a", 2, "x", self)))
	b.answer("move@5 b", func(n int) (*record, error) {
		if n == 1 {
			return nil, status.Error(codes.Unavailable, "not now")
		}
		return rec("b", 6, "y", self), nil
	})
	b.answer("move@1 empty", gives(rec("empty", 2, "x", self)))
	b.answer("move@1 kept", noCDN)
	ended := make(chan error, 1)
	go func() { ended <- b.keeper.Handover(t.Context()) }()
	// What is not whole here is given away at once, the rest when it is whole there.
	b.untilHas("a@1:self[x] b@5:self[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ")
	b.peers.have("b")
	b.untilHas("a@1:self[x] b@6:y[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ")
	b.peers.have("kept")
	b.until(func() bool { return b.count("move@1 kept") > 0 })
	require.Empty(t, ended, "nobody has what is owned here")
	b.peers.have("a")
	require.NoError(t, <-ended)
	require.Equal(t, "a@2:x[x] b@6:y[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ", b.has())
	for _, call := range b.allCalls() {
		require.NotContains(t, call, "replica")
		require.NotContains(t, call, "repair")
	}
}

func TestWholeCopyIsMadeBeforeTheOnlyOneLeaves(t *testing.T) {
	t.Parallel()
	b := start(t, never, copyOf("a"))
	b.setMembers(self, "x")
	b.answer("repair a", gives(later(rec("a", 1, self, "x"), 1)))
	b.answer("move@1 a", gives(rec("a", 2, "x", self)))
	b.tell(t, &told{Records: []*record{rec("a", 1, self)}, Replicas: 1, Complete: true})
	b.untilHas("a@1:self[] ")
	ended := make(chan error, 1)
	go func() { ended <- b.keeper.Handover(t.Context()) }()
	b.untilHas("a@1:self[x] ")
	require.Equal(t, []string{"repair a"}, b.allCalls())
	b.peers.have("a")
	require.NoError(t, <-ended)
	require.Equal(t, []string{"repair a", "move@1 a"}, b.allCalls())
}

func TestHandoverEndsInTime(t *testing.T) {
	t.Parallel()
	synctest.Test(t, testHandoverEndsInTime)
}

func testHandoverEndsInTime(t *testing.T) {
	b := startInBubble(t, never, copyOf("a"))
	b.setMembers(self, "x")
	b.answer("move@1 a", gives(rec("a", 2, "x", self)))
	b.tell(t, complete(rec("a", 1, self, "x")))
	b.untilHas("a@1:self[x] ")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	// A copy that does not come in time keeps nobody from having an owner.
	require.ErrorIs(t, b.keeper.Handover(ctx), context.DeadlineExceeded)
	require.Equal(t, "a@2:x[x] ", b.has())
}

func TestLonelyInstanceHasNobodyToWaitFor(t *testing.T) {
	t.Parallel()
	b := start(t, never, copyOf("a"))
	b.setMembers("-" + self)
	b.tell(t, complete(rec("a", 1, self)))
	b.untilHas("a@1:self[] ")
	require.NoError(t, b.keeper.Handover(t.Context()))
	require.Empty(t, b.allCalls())
}

func TestHandoverDoesNotWaitForARegistryThatIsAway(t *testing.T) {
	t.Parallel()
	b := start(t, never, copyOf("a"))
	b.setMembers(self, "x")
	b.tell(t, complete(rec("a", 1, self, "x")))
	b.untilHas("a@1:self[x] ")
	b.setAway(true)
	b.cut()
	require.ErrorContains(t, b.keeper.Handover(t.Context()), "no registry answers")
}

func TestWhoIsMarkedGivesAwayWhatItOwns(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x", "y")
	b.answer("move@1 a", gives(rec("a", 2, "x", self)))
	b.answer("move@1 b", noCDN)
	b.tell(t, complete(rec("a", 1, self, "x"), rec("b", 1, self, "x"), rec("c", 1, "x", self)))
	b.untilHas("a@1:self[x] b@1:self[x] c@1:x[x] ")
	b.setMembers("-"+self, "x", "y")
	b.untilHas("a@2:x[x] b@1:self[x] c@1:x[x] ")
	// It begins again with what nobody took when somebody comes.
	b.answer("move@1 b", gives(rec("b", 2, "z", self)))
	b.setMembers("-"+self, "x", "y", "z")
	b.untilHas("a@2:x[x] b@2:z[z] c@1:x[x] ")
	require.False(t, slices.Contains(b.allCalls(), "move@1 c"))
}
