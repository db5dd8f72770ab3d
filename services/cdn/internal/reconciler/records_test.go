package reconciler_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

func TestRecordsBecomeStandings(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	h.sendTasks(t, recordsMessage(newRecord("a", 1, self, "x")), completeMessage(newRecord("b", 2, "x", self, "y")))
	h.awaitStandings("a@1:self[x] b@2:x[x y] ")
	require.Equal(t, task.Standing{
		Epoch: 1, Owner: self, Mine: true, Others: []string{"x"}, URL: "http://origin/a",
		Facts: task.Facts{Length: 1000, PieceSize: 100, ETag: `"1"`}, Status: task.Success,
	}, h.standing["a"])
	unknown := newRecord("c", 1, self)
	unknown.PieceSize, unknown.Source, unknown.Status = 0, nil, registryv1.TaskStatus_TASK_STATUS_WAITING
	h.sendTasks(t, recordsMessage(newRecord("a", 2, "x", self), unknown), &watchResponse{Gone: []string{idOf("b")}})
	h.awaitStandings("a@2:x[x] c@1:self[] ")
	require.Zero(t, h.standing["c"].Facts)
	require.Equal(t, task.Waiting, h.standing["c"].Status)
}

func TestCompleteStreamReleasesTasksThatItDoesNotName(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	h.sendTasks(t, completeMessage(newRecord("a", 3, self, "x"), newRecord("b", 3, "x", self)))
	h.awaitStandings("a@3:self[x] b@3:x[x] ")
	h.breakStream()
	// The store was emptied: revisions start from the beginning.
	h.sendTasks(t, recordsMessage(bumpRevision(newRecord("a", 3, self, "y"), -299), newRecord("c", 1, self, "x")))
	h.awaitStandings("a@3:self[y] b@3:x[x] c@1:self[x] ")
	h.sendTasks(t, completeMessage())
	h.awaitStandings("a@3:self[y] c@1:self[x] ")
}

func TestOldRepeatedAndInvalidRecordsAreIgnored(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	h.sendTasks(t, completeMessage(newRecord("a", 3, self, "x")), recordsMessage(newRecord("a", 3, self, "x")), recordsMessage(newRecord("a", 2, "x", self)),
		recordsMessage(bumpRevision(newRecord("a", 1, "y", self), 1000)), &watchResponse{Records: []*record{{TaskId: "no task"}}},
		completeMessage(), recordsMessage(newRecord("b", 1, self, "x")))
	h.awaitStandings("a@3:self[x] b@1:self[x] ")
	require.Equal(t, []string{"a@3", "b@1"}, h.history())
}

func TestReleasedOwnerLearnsTheNewOwner(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	h.onCall("get a", func(int) (*record, error) { return newRecord("a", 2, "x", "y"), nil })
	h.sendTasks(t, completeMessage(newRecord("a", 1, self)), &watchResponse{Gone: []string{idOf("a")}})
	h.eventually(func() bool { return len(h.history()) == 4 })
	require.Equal(t, []string{"a@1", "a released", "a@2", "a released"}, h.history())

	// The record is read also if the registry refuses a report of the instance.
	h.onCall("get b", func(n int) (*record, error) {
		if n < 3 {
			return nil, status.Error(codes.Unavailable, "unavailable")
		}
		return newRecord("b", 2, "x", self), nil
	})
	h.reconciler.Stale(task.ID(idOf("b")))
	h.awaitStandings("b@2:x[x] ")
	require.Equal(t, 3, h.callCount("get b"))
}

func TestLostTaskIsResignedUntilTheRegistryAnswers(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	h.setMembers(self, "x", "y")
	h.sendTasks(t, completeMessage(newRecord("a", 1, "x", self), newRecord("b", 1, "x", self)))
	h.awaitStandings("a@1:x[x] b@1:x[x] ")
	h.setUnavailable(true)
	h.onCall("resign a", func(int) (*record, error) { return bumpRevision(newRecord("a", 1, "x", "y"), 1), nil })
	for range 3 {
		h.reconciler.Lost(task.ID(idOf("a")), rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full"))
	}
	h.reconciler.Lost(task.ID(idOf("unknown")), rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full"))
	h.eventually(func() bool { return h.callCount("resign a") > 3 })
	h.setUnavailable(false)
	h.awaitStandings("b@1:x[x] ")
	// A record of the stream that is older than the answer to the call is ignored.
	h.sendTasks(t, recordsMessage(newRecord("a", 1, "x", self)), recordsMessage(newRecord("c", 1, self, "x")))
	h.awaitStandings("b@1:x[x] c@1:self[x] ")
	h.eventually(func() bool { return h.callCount("resign unknown") > 0 })
	tried := h.callCount("resign a")
	h.reconciler.Lost(task.ID(idOf("b")), nil)
	h.eventually(func() bool { return h.callCount("resign b") > 0 })
	require.Equal(t, tried, h.callCount("resign a"), "the resignation is not repeated")
}

func TestStillOwnerIsTrueUnlessARecordNamesAnother(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	for name, c := range map[string]struct {
		record *record
		err    error
		still  bool
	}{
		"mine":              {record: newRecord("mine", 2, self), still: true},
		"mine later":        {record: newRecord("mine later", 9, self), still: true},
		"of another":        {record: newRecord("of another", 3, "x", self)},
		"of another before": {record: newRecord("of another before", 1, "x", self)},
		"unavailable":       {err: status.Error(codes.Unavailable, "unavailable"), still: true},
		"unknown":           {err: status.Error(codes.NotFound, "no such task"), still: true},
	} {
		h.onCall("get "+name, func(int) (*record, error) { return c.record, c.err })
		still, err := h.reconciler.StillOwner(t.Context(), task.ID(idOf(name)), 2)
		require.Equal(t, c.still, still, name)
		require.Equal(t, c.err != nil, err != nil, name)
	}
}

func TestStillOwnerIsTrueIfTheRegistryHangs(t *testing.T) {
	t.Parallel()
	h := start(t, never)
	hold := make(chan struct{})
	h.scriptedRegistry.mu.Lock()
	h.blockCalls = hold
	h.scriptedRegistry.mu.Unlock()
	still, err := h.reconciler.StillOwner(t.Context(), task.ID(idOf("a")), 2)
	require.True(t, still)
	require.Error(t, err)
	close(hold)
}
