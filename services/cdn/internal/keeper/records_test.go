package keeper_test

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
	b := start(t, never)
	b.setMembers(self, "x", "y")
	b.tell(t, records(rec("a", 1, self, "x")), complete(rec("b", 2, "x", self, "y")))
	b.untilHas("a@1:self[x] b@2:x[x y] ")
	require.Equal(t, task.Standing{
		Epoch: 1, Owner: self, Mine: true, Others: []string{"x"}, URL: "http://origin/a",
		Facts: task.Facts{Length: 1000, PieceSize: 100, ETag: `"1"`}, Status: task.Success,
	}, b.standing["a"])
	unknown := rec("c", 1, self)
	unknown.PieceSize, unknown.Source, unknown.Status = 0, nil, registryv1.TaskStatus_TASK_STATUS_WAITING
	b.tell(t, records(rec("a", 2, "x", self), unknown), &told{Gone: []string{idOf("b")}})
	b.untilHas("a@2:x[x] c@1:self[] ")
	require.Zero(t, b.standing["c"].Facts)
	require.Equal(t, task.Waiting, b.standing["c"].Status)
}

func TestNewStreamLetsGoOfWhatItDoesNotTell(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x", "y")
	b.tell(t, complete(rec("a", 3, self, "x"), rec("b", 3, "x", self)))
	b.untilHas("a@3:self[x] b@3:x[x] ")
	b.cut()
	// The store has lost what it had: revisions begin anew.
	b.tell(t, records(later(rec("a", 3, self, "y"), -299), rec("c", 1, self, "x")))
	b.untilHas("a@3:self[y] b@3:x[x] c@1:self[x] ")
	b.tell(t, complete())
	b.untilHas("a@3:self[y] c@1:self[x] ")
}

func TestRecordsThatAreOldOrRepeatedOrLieChangeNothing(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x", "y")
	b.tell(t, complete(rec("a", 3, self, "x")), records(rec("a", 3, self, "x")), records(rec("a", 2, "x", self)),
		records(later(rec("a", 1, "y", self), 1000)), &told{Records: []*record{{TaskId: "no task"}}},
		complete(), records(rec("b", 1, self, "x")))
	b.untilHas("a@3:self[x] b@1:self[x] ")
	require.Equal(t, []string{"a@3", "b@1"}, b.history())
}

func TestTaskThatAnotherOwnsIsStoodDownFrom(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x", "y")
	b.answer("get a", func(int) (*record, error) { return rec("a", 2, "x", "y"), nil })
	b.tell(t, complete(rec("a", 1, self)), &told{Gone: []string{idOf("a")}})
	b.until(func() bool { return len(b.history()) == 4 })
	require.Equal(t, []string{"a@1", "a released", "a@2", "a released"}, b.history())

	// The same when the registry refuses what the instance reports.
	b.answer("get b", func(n int) (*record, error) {
		if n < 3 {
			return nil, status.Error(codes.Unavailable, "away")
		}
		return rec("b", 2, "x", self), nil
	})
	b.keeper.Stale(task.ID(idOf("b")))
	b.untilHas("b@2:x[x] ")
	require.Equal(t, 3, b.count("get b"))
}

func TestLossesAreResignedFrom(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	b.setMembers(self, "x", "y")
	b.tell(t, complete(rec("a", 1, "x", self), rec("b", 1, "x", self)))
	b.untilHas("a@1:x[x] b@1:x[x] ")
	b.setAway(true)
	b.answer("resign a", func(int) (*record, error) { return later(rec("a", 1, "x", "y"), 1), nil })
	for range 3 {
		b.keeper.Lost(task.ID(idOf("a")), rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full"))
	}
	b.keeper.Lost(task.ID(idOf("unknown")), rpcerr.New(codes.ResourceExhausted, rpcerr.DiskFull, "full"))
	b.until(func() bool { return b.count("resign a") > 3 })
	b.setAway(false)
	b.untilHas("b@1:x[x] ")
	// What the stream still tells of the time before is not believed.
	b.tell(t, records(rec("a", 1, "x", self)), records(rec("c", 1, self, "x")))
	b.untilHas("b@1:x[x] c@1:self[x] ")
	b.until(func() bool { return b.count("resign unknown") > 0 })
	tried := b.count("resign a")
	b.keeper.Lost(task.ID(idOf("b")), nil)
	b.until(func() bool { return b.count("resign b") > 0 })
	require.Equal(t, tried, b.count("resign a"), "it is done")
}

func TestWhoStillOwns(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	for name, c := range map[string]struct {
		record *record
		err    error
		still  bool
	}{
		"mine":              {record: rec("mine", 2, self), still: true},
		"mine later":        {record: rec("mine later", 9, self), still: true},
		"of another":        {record: rec("of another", 3, "x", self)},
		"of another before": {record: rec("of another before", 1, "x", self)},
		"away":              {err: status.Error(codes.Unavailable, "away"), still: true},
		"unknown":           {err: status.Error(codes.NotFound, "no such task"), still: true},
	} {
		b.answer("get "+name, func(int) (*record, error) { return c.record, c.err })
		still, err := b.keeper.StillOwner(t.Context(), task.ID(idOf(name)), 2)
		require.Equal(t, c.still, still, name)
		require.Equal(t, c.err != nil, err != nil, name)
	}
}

func TestRegistryThatHangsStopsNoOwner(t *testing.T) {
	t.Parallel()
	b := start(t, never)
	hold := make(chan struct{})
	b.script.mu.Lock()
	b.hold = hold
	b.script.mu.Unlock()
	still, err := b.keeper.StillOwner(t.Context(), task.ID(idOf("a")), 2)
	require.True(t, still)
	require.Error(t, err)
	close(hold)
}

func TestCopiesThatNoRecordKnowsAreAnnounced(t *testing.T) {
	t.Parallel()
	part, old, same := copyOf("part"), copyOf("old"), copyOf("same")
	part.Whole, part.Pieces = false, 3
	b := start(t, never, copyOf("a"), copyOf("named"), part, old, same)
	announced := make(chan []string, 10)
	answer := &announce{
		Records:  []*record{rec("a", 4, self), rec("not mine", 1, "x")},
		Unwanted: []string{idOf("part"), idOf("old"), idOf("same"), idOf("named"), idOf("not here")},
	}
	tries := 0
	b.takes = func(copies []*registryv1.Copy) (*announce, error) {
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
	newer := rec("old", 2, "x", "y")
	newer.Source.Etag = `"2"`
	b.answer("get old", func(int) (*record, error) { return newer, nil })
	b.answer("get same", func(int) (*record, error) { return rec("same", 2, "x", "y"), nil })
	b.setMembers(self, "x", "y")
	b.tell(t, records(rec("named", 1, self, "x")))
	b.untilHas("named@1:self[x] ")
	require.Empty(t, announced, "not all records are known")
	b.tell(t, complete())
	require.ElementsMatch(t, []string{"a", "part", "old", "same"}, <-announced)
	b.untilHas("a@4:self[] named@1:self[x] ")
	b.until(func() bool { return b.count("get same") > 0 && b.count("get old") > 0 })

	// A store that was reached anew may have lost anything.
	answer.Unwanted = nil
	b.cut()
	b.tell(t, complete())
	require.ElementsMatch(t, []string{"a", "named", "same"}, <-announced)
	b.recorder.mu.Lock()
	defer b.recorder.mu.Unlock()
	require.ElementsMatch(t, []string{"part", "old"}, b.discarded)
}

func TestAnnouncementsAreBounded(t *testing.T) {
	t.Parallel()
	var disk []task.Inventory
	for i := range 1200 {
		disk = append(disk, copyOf("t"+string(rune('a'+i%26))+string(rune('a'+i/26%26))+string(rune('a'+i/26/26))))
	}
	b := start(t, never, disk...)
	sizes := make(chan int, 10)
	b.takes = func(copies []*registryv1.Copy) (*announce, error) {
		sizes <- len(copies)
		return &announce{}, nil
	}
	b.tell(t, complete())
	got := []int{<-sizes, <-sizes, <-sizes}
	slices.Sort(got)
	require.Equal(t, []int{200, 500, 500}, got)
}

func TestWhoWasNoMemberForAWhileAnnouncesAgain(t *testing.T) {
	t.Parallel()
	b := start(t, never, copyOf("a"))
	announced := make(chan struct{}, 10)
	b.takes = func([]*registryv1.Copy) (*announce, error) {
		announced <- struct{}{}
		return &announce{}, nil
	}
	b.setMembers(self, "x")
	b.tell(t, complete(rec("a", 1, "x", self)))
	b.untilHas("a@1:x[x] ")
	b.setMembers("x")
	b.tell(t, &told{Gone: []string{idOf("a")}})
	b.untilHas("")
	b.setMembers(self, "x")
	<-announced
}
