package cache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func cdn(id string, rev int64) *cache.Lease {
	return &cache.Lease{Member: record.Member{Role: record.RoleCDN, ID: id}, ID: rev, Revision: rev}
}

func task(rev int64) *record.Task { return &record.Task{ID: "t", Revision: rev} }

func TestHighestRevisionOfAKeyWins(t *testing.T) {
	c, id := cache.New(), "t"
	c.Replace(cache.Snapshot{Revision: 10})
	c.ApplyWrite("", cache.Change{Revision: 12, Task: task(12)})
	c.Apply([]cache.Change{{Revision: 11, Task: task(11)}})
	got, _, ok := c.Task(id)
	require.True(t, ok)
	require.EqualValues(t, 12, got.Revision, "the watch lags behind the write")

	c.ApplyWrite("", cache.Change{Revision: 13, TaskGone: &id})
	c.Apply([]cache.Change{{Revision: 12, Task: task(12)}})
	_, _, ok = c.Task(id)
	require.False(t, ok, "the watch lags behind the deletion")

	c.Apply([]cache.Change{{Revision: 13, TaskGone: &id}, {Revision: 14, Task: task(14)}, {Revision: 15, TaskGone: &id}})
	c.ApplyWrite("", cache.Change{Revision: 14, Task: task(14)})
	_, _, ok = c.Task(id)
	require.False(t, ok, "the watch has delivered a later deletion")
	_, records := c.Counts()
	require.Zero(t, records)
}

func TestListReplacesEverythingExceptLaterWrites(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Revision: 5, Members: []cache.Lease{*cdn("a", 4), *cdn("b", 5)}})
	c.ApplyWrite("", cache.Change{Revision: 8, Member: cdn("c", 8)})
	c.Replace(cache.Snapshot{Revision: 7, Members: []cache.Lease{*cdn("b", 5)}})
	members, _ := c.Members()
	require.Len(t, members, 2, "a is not in the list, c was written after it: %v", members)
	c.Replace(cache.Snapshot{Revision: 2, Members: []cache.Lease{*cdn("z", 2)}})
	members, _ = c.Members()
	require.Len(t, members, 1, "the store was reset: nothing else stays")
}

func TestChangedIsClosedOnlyIfAMemberChanges(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Revision: 1, Members: []cache.Lease{*cdn("a", 1)}})
	_, changed := c.Members()
	c.Apply([]cache.Change{{Revision: 2, Member: cdn("a", 2)}, {Revision: 3, Task: task(3)}})
	c.Replace(cache.Snapshot{Revision: 4, Members: []cache.Lease{*cdn("a", 2)}})
	select {
	case <-changed:
		require.Fail(t, "no member has changed")
	default:
	}
	gone := record.MemberKey{Role: record.RoleCDN, ID: "a"}
	c.Apply([]cache.Change{{Revision: 5, MemberGone: &gone}})
	<-changed
}

func TestMembersOfTheFormerStoreStayWhileTheStoreIsYoung(t *testing.T) {
	c := cache.New()
	lease := func(id string, rev int64) cache.Lease {
		return cache.Lease{Member: record.Member{Role: record.RoleCDN, ID: id, State: record.StateReady}, ID: 1, Revision: rev}
	}
	names := func() (ids []string) {
		members, _ := c.Members()
		for _, m := range members {
			_, ok := c.Member(m.Key())
			require.True(t, ok)
			ids = append(ids, m.ID)
		}
		return ids
	}
	c.Replace(cache.Snapshot{Era: "a", Revision: 9, Members: []cache.Lease{lease("x", 7), lease("y", 8), lease("z", 9)}})
	c.Replace(cache.Snapshot{Era: "b", Young: true, Revision: 3, Members: []cache.Lease{lease("x", 2)}})
	require.Equal(t, []string{"x", "y", "z"}, names())
	c.Apply([]cache.Change{{Revision: 4, MemberGone: &record.MemberKey{Role: record.RoleCDN, ID: "z"}}})
	c.Replace(cache.Snapshot{Era: "b", Young: true, Revision: 5, Members: []cache.Lease{lease("x", 2)}})
	require.Equal(t, []string{"x", "y"}, names(), "z has left, and the list does not restore it")
	c.Apply([]cache.Change{{Revision: 6, YoungEnded: true}})
	require.Equal(t, []string{"x"}, names())
}
