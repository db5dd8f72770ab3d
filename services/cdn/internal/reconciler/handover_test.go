package reconciler_test

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func refuseNoCDN(int) (*record, error) {
	return nil, rpcerr.Status(rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no CDN accepts the task")).Err()
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
	// Tasks without a whole local copy are moved at once, the others when the new owner
	// has a whole copy.
	h.awaitStandings("a@1:self[x] b@5:self[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ")
	h.otherCDNs.addWhole("b")
	h.awaitStandings("a@1:self[x] b@6:y[y] empty@2:x[x] kept@1:self[x] replica@1:x[x] ")
	h.otherCDNs.addWhole("kept")
	h.eventually(func() bool { return h.callCount("move@1 kept") > 0 })
	require.Empty(t, ended, "no other CDN has a copy of a")
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
	// A task gets a new owner even if the new owner has no copy in time.
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
	require.ErrorContains(t, h.reconciler.Handover(t.Context()), "the registry or its store is unavailable")
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
	// A task that no CDN accepted is moved when another CDN joins.
	h.onCall("move@1 b", always(newRecord("b", 2, "z", self)))
	h.setMembers("-"+self, "x", "y", "z")
	h.awaitStandings("a@2:x[x] b@2:z[z] c@1:x[x] ")
	require.False(t, slices.Contains(h.allCalls(), "move@1 c"))
}

// A registry without a store answers calls with an error.
func TestHandoverFailsIfTheStoreIsUnavailable(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"))
	h.setMembers(self, "x")
	h.otherCDNs.addWhole("a")
	h.onCall("move@1 a", func(int) (*record, error) {
		return nil, rpcerr.Status(rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "the store is unavailable")).Err()
	})
	h.sendTasks(t, completeMessage(newRecord("a", 1, self, "x")))
	h.awaitStandings("a@1:self[x] ")
	require.ErrorContains(t, h.reconciler.Handover(t.Context()), "the registry or its store is unavailable")
}
