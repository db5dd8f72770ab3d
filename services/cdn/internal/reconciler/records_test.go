package reconciler_test

import (
	"slices"
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
	// The store has lost what it had: revisions begin anew.
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

	// The same when the registry refuses what the instance reports.
	h.onCall("get b", func(n int) (*record, error) {
		if n < 3 {
			return nil, status.Error(codes.Unavailable, "away")
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
	// What the stream still tells of the time before is not believed.
	h.sendTasks(t, recordsMessage(newRecord("a", 1, "x", self)), recordsMessage(newRecord("c", 1, self, "x")))
	h.awaitStandings("b@1:x[x] c@1:self[x] ")
	h.eventually(func() bool { return h.callCount("resign unknown") > 0 })
	tried := h.callCount("resign a")
	h.reconciler.Lost(task.ID(idOf("b")), nil)
	h.eventually(func() bool { return h.callCount("resign b") > 0 })
	require.Equal(t, tried, h.callCount("resign a"), "it is done")
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
		"away":              {err: status.Error(codes.Unavailable, "away"), still: true},
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

func TestCopiesWithoutARecordAreAnnounced(t *testing.T) {
	t.Parallel()
	part, old, same := inventoryOf("part"), inventoryOf("old"), inventoryOf("same")
	part.Whole, part.Pieces = false, 3
	h := start(t, never, inventoryOf("a"), inventoryOf("named"), part, old, same)
	announced := make(chan []string, 10)
	answer := &announce{
		Records:  []*record{newRecord("a", 4, self), newRecord("not mine", 1, "x")},
		Unwanted: []string{idOf("part"), idOf("old"), idOf("same"), idOf("named"), idOf("not here")},
	}
	tries := 0
	h.onAnnounce = func(copies []*registryv1.Copy) (*announce, error) {
		if tries++; tries < 3 {
			return nil, rpcerr.Status(rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "no member yet")).Err()
		}
		var names []string
		for _, c := range copies {
			names = append(names, nameOf(c.GetTaskId()))
			if nameOf(c.GetTaskId()) == "a" {
				require.EqualValues(t, 3, c.GetEpoch())
				require.EqualValues(t, 11, c.GetPieces())
				require.EqualValues(t, 100, c.GetPieceSize())
				require.EqualValues(t, 1000, c.GetSource().GetLength())
				require.True(t, c.GetWhole())
			}
		}
		announced <- names
		return answer, nil
	}
	newer := newRecord("old", 2, "x", "y")
	newer.Source.Etag = `"2"`
	h.onCall("get old", func(int) (*record, error) { return newer, nil })
	h.onCall("get same", func(int) (*record, error) { return newRecord("same", 2, "x", "y"), nil })
	h.setMembers(self, "x", "y")
	h.sendTasks(t, recordsMessage(newRecord("named", 1, self, "x")))
	h.awaitStandings("named@1:self[x] ")
	require.Empty(t, announced, "not all records are known")
	h.sendTasks(t, completeMessage())
	require.ElementsMatch(t, []string{"a", "part", "old", "same"}, <-announced)
	h.awaitStandings("a@4:self[] named@1:self[x] ")
	h.eventually(func() bool { return h.callCount("get same") > 0 && h.callCount("get old") > 0 })

	// A store that was reached anew may have lost anything.
	answer.Unwanted = nil
	h.breakStream()
	h.sendTasks(t, completeMessage())
	require.ElementsMatch(t, []string{"a", "named", "same"}, <-announced)
	h.recordingEngine.mu.Lock()
	defer h.recordingEngine.mu.Unlock()
	require.ElementsMatch(t, []string{"part", "old"}, h.discarded)
}

func TestAnnouncementsHaveABoundedNumberOfCopies(t *testing.T) {
	t.Parallel()
	var disk []task.Inventory
	for i := range 1200 {
		disk = append(disk, inventoryOf("t"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/26/26))))
	}
	h := start(t, never, disk...)
	sizes := make(chan int, 10)
	h.onAnnounce = func(copies []*registryv1.Copy) (*announce, error) {
		sizes <- len(copies)
		return &announce{}, nil
	}
	h.sendTasks(t, completeMessage())
	got := []int{<-sizes, <-sizes, <-sizes}
	slices.Sort(got)
	require.Equal(t, []int{200, 500, 500}, got)
}

func TestInstanceThatRejoinsAnnouncesAgain(t *testing.T) {
	t.Parallel()
	h := start(t, never, inventoryOf("a"))
	announced := make(chan struct{}, 10)
	h.onAnnounce = func([]*registryv1.Copy) (*announce, error) {
		announced <- struct{}{}
		return &announce{}, nil
	}
	h.setMembers(self, "x")
	h.sendTasks(t, completeMessage(newRecord("a", 1, "x", self)))
	h.awaitStandings("a@1:x[x] ")
	h.setMembers("x")
	h.sendTasks(t, &watchResponse{Gone: []string{idOf("a")}})
	h.awaitStandings("")
	h.setMembers(self, "x")
	<-announced
}
