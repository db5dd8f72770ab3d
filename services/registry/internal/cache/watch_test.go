package cache_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

var cdnC = record.MemberKey{Role: record.RoleCDN, ID: "c"}

func owned(id, owner string, rev int64, replicas ...string) *record.Task {
	return &record.Task{ID: id, Owner: owner, Replicas: replicas, Scheduler: "s", Revision: rev}
}

func apply(c *cache.Cache, t *record.Task) {
	c.Apply([]cache.Change{{Revision: t.Revision, Task: t}})
}

func taskIDs(tasks []record.Task) []string {
	ids := []string{}
	for _, t := range tasks {
		ids = append(ids, t.ID)
	}
	return ids
}

func TestSlowWatchReceivesTheLatestStateOfEveryTask(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Era: "e", Revision: 10, Tasks: []record.Task{*owned("t1", "c", 1), *owned("t2", "d", 2, "c"), *owned("t3", "d", 3)}})
	w := c.Watch(cdnC)
	defer w.Close()
	<-w.Ready()
	first := w.Take(1)
	require.False(t, first.Complete)
	<-w.Ready()
	second := w.Take(1)
	require.True(t, second.Complete)
	require.ElementsMatch(t, []string{"t1", "t2"}, taskIDs(append(first.Records, second.Records...)))

	// Of many changes of a task, only the last one is returned.
	for rev := int64(11); rev < 200; rev++ {
		apply(c, owned("t1", "c", rev))
	}
	apply(c, owned("t2", "d", 200))
	apply(c, owned("t4", "c", 201))
	apply(c, owned("t4", "d", 202))
	<-w.Ready()
	b := w.Take(10)
	require.Equal(t, []string{"t1"}, taskIDs(b.Records))
	require.EqualValues(t, 199, b.Records[0].Revision)
	require.Equal(t, []string{"t2"}, b.Gone, "t4 has never been returned, so it is not gone")
	require.False(t, b.Complete)

	// A write that the watch delivers again is one change.
	c.ApplyWrite("e", cache.Change{Revision: 203, Task: owned("t1", "d", 203, "c")})
	<-w.Ready()
	require.Len(t, w.Take(10).Records, 1)
	apply(c, owned("t1", "d", 203, "c"))
	select {
	case <-w.Ready():
		require.Fail(t, "no record has changed")
	default:
	}
}

func TestBatchHasAtMostTheGivenNumberOfEntries(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Era: "e", Revision: 1})
	w := c.Watch(cdnC)
	defer w.Close()
	require.True(t, w.Take(5).Complete)
	for i := range 12 {
		apply(c, owned(fmt.Sprint("t", i), "c", int64(2+i)))
	}
	received := 0
	for received < 12 {
		<-w.Ready()
		b := w.Take(5)
		require.LessOrEqual(t, len(b.Records), 5)
		received += len(b.Records)
	}
	require.Equal(t, 12, received)
}

// A message must not exceed the limit of gRPC, however long the URLs are.
func TestBatchesAndPagesOfLongRecordsAreSmaller(t *testing.T) {
	c := cache.New()
	snapshot := cache.Snapshot{Era: "e", Revision: 1}
	for i := range 200 {
		long := owned(fmt.Sprintf("t%03d", i), "c", 1)
		long.URL = strings.Repeat("u", 32<<10)
		snapshot.Tasks = append(snapshot.Tasks, *long)
	}
	c.Replace(snapshot)
	w := c.Watch(cdnC)
	defer w.Close()
	received := 0
	for complete := false; !complete; {
		<-w.Ready()
		b := w.Take(500)
		require.LessOrEqual(t, len(b.Records), 40)
		received, complete = received+len(b.Records), b.Complete
	}
	require.Equal(t, 200, received)
	page, more := c.Tasks("c", "", 500)
	require.True(t, more)
	require.LessOrEqual(t, len(page), 40)
}

func TestReplaceEndsWatches(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Era: "e", Revision: 1})
	w := c.Watch(cdnC)
	c.Replace(cache.Snapshot{Era: "e", Revision: 2})
	<-w.Ended()
	again := c.Watch(cdnC)
	require.True(t, again.Take(5).Complete)
	<-again.Ready()
	w.Close()
	apply(c, owned("t", "c", 3))
	<-again.Ready()
	require.Len(t, again.Take(5).Records, 1)
	again.Close()
}

func TestLoadsCountTheRecordsThatNameACDN(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Era: "e", Revision: 3, Tasks: []record.Task{*owned("t1", "c", 1, "d"), *owned("t2", "d", 2, "c")}})
	require.Equal(t, cache.Load{Owned: 1, Replicated: 1}, c.Load("c"))
	apply(c, owned("t1", "d", 4, "e", "e", "d"))
	require.Equal(t, map[string]cache.Load{"c": {Replicated: 1}, "d": {Owned: 2}, "e": {Replicated: 1}}, c.Loads(), "a CDN that a record names twice counts once")
	id := "t1"
	c.Apply([]cache.Change{{Revision: 5, TaskGone: &id}})
	require.Equal(t, map[string]cache.Load{"c": {Replicated: 1}, "d": {Owned: 1}}, c.Loads())
	page, more := c.Tasks("c", "", 1)
	require.Equal(t, []string{"t2"}, taskIDs(page))
	require.False(t, more)
	page, _ = c.Tasks("", "t2", 10)
	require.Empty(t, page)
}

func TestMemberWithADrainMarkIsDraining(t *testing.T) {
	c := cache.New()
	m := cache.Lease{Member: record.Member{Role: record.RoleCDN, ID: "c", State: record.StateReady}, Revision: 1}
	c.Replace(cache.Snapshot{Era: "e", Revision: 1, Members: []cache.Lease{m}})
	_, changed := c.Members()
	c.ApplyWrite("e", cache.Change{Revision: 2, DrainMark: &cdnC})
	<-changed
	got, _ := c.Member(cdnC)
	require.Equal(t, record.StateDraining, got.State)
	require.True(t, c.HasDrainMark(cdnC))
	c.Apply([]cache.Change{{Revision: 2, DrainMark: &cdnC}, {Revision: 3, DrainMarkGone: &cdnC}})
	got, _ = c.Member(cdnC)
	require.Equal(t, record.StateReady, got.State)
}

func TestWritesAndListsOfAnotherEraAreNotMixed(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Era: "e", Revision: 5, Tasks: []record.Task{*owned("t", "c", 5)}})
	c.ApplyWrite("e", cache.Change{Revision: 9, Task: owned("u", "c", 9)})
	c.ApplyWrite("f", cache.Change{Revision: 10, Task: owned("t", "x", 10)})
	got, era, _ := c.Task("t")
	require.Equal(t, []string{"c", "e"}, []string{got.Owner, era}, "the write was in an era that has not been listed")
	c.Replace(cache.Snapshot{Era: "f", Revision: 7})
	_, _, ok := c.Task("u")
	require.False(t, ok, "nothing of the former era stays, whatever its revision")
}
