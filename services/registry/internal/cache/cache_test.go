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

func TestNewestOfAKeyWins(t *testing.T) {
	c, id := cache.New(), "t"
	c.Replace(cache.Snapshot{Revision: 10})
	c.Feed("", cache.Change{Revision: 12, Task: task(12)})
	c.Apply([]cache.Change{{Revision: 11, Task: task(11)}})
	got, _, ok := c.Task(id)
	require.True(t, ok)
	require.EqualValues(t, 12, got.Revision, "the watch is behind what was written here")

	c.Feed("", cache.Change{Revision: 13, TaskGone: &id})
	c.Apply([]cache.Change{{Revision: 12, Task: task(12)}})
	_, _, ok = c.Task(id)
	require.False(t, ok, "deleted here, the watch is behind")

	c.Apply([]cache.Change{{Revision: 13, TaskGone: &id}, {Revision: 14, Task: task(14)}, {Revision: 15, TaskGone: &id}})
	c.Feed("", cache.Change{Revision: 14, Task: task(14)})
	_, _, ok = c.Task(id)
	require.False(t, ok, "news that the watch has overtaken are old")
	_, records := c.Counts()
	require.Zero(t, records)
}

func TestListReplacesAllButLaterWrites(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Revision: 5, Members: []cache.Lease{*cdn("a", 4), *cdn("b", 5)}})
	c.Feed("", cache.Change{Revision: 8, Member: cdn("c", 8)})
	c.Replace(cache.Snapshot{Revision: 7, Members: []cache.Lease{*cdn("b", 5)}})
	members, _ := c.Members()
	require.Len(t, members, 2, "a left, c came after the list: %v", members)
	c.Replace(cache.Snapshot{Revision: 2, Members: []cache.Lease{*cdn("z", 2)}})
	members, _ = c.Members()
	require.Len(t, members, 1, "a reset store has no past")
}

func TestOnlyNewsWake(t *testing.T) {
	c := cache.New()
	c.Replace(cache.Snapshot{Revision: 1, Members: []cache.Lease{*cdn("a", 1)}})
	_, changed := c.Members()
	c.Apply([]cache.Change{{Revision: 2, Member: cdn("a", 2)}, {Revision: 3, Task: task(3)}})
	c.Replace(cache.Snapshot{Revision: 4, Members: []cache.Lease{*cdn("a", 2)}})
	select {
	case <-changed:
		require.Fail(t, "nothing changed")
	default:
	}
	gone := record.MemberKey{Role: record.RoleCDN, ID: "a"}
	c.Apply([]cache.Change{{Revision: 5, MemberGone: &gone}})
	<-changed
}

// Members of a store are expected in the one that takes its place, until they
// leave or it is young no more.
func TestMembersAreExpectedInAYoungStore(t *testing.T) {
	c := cache.New()
	lease := func(id string, rev int64) cache.Lease {
		return cache.Lease{Member: record.Member{Role: record.RoleCDN, ID: id, State: record.StateReady}, ID: 1, Revision: rev}
	}
	names := func() (ids []string) {
		members, _ := c.Members()
		for _, m := range members {
			_, there := c.Member(m.Key())
			require.True(t, there)
			ids = append(ids, m.ID)
		}
		return ids
	}
	c.Replace(cache.Snapshot{Era: "a", Revision: 9, Members: []cache.Lease{lease("x", 7), lease("y", 8), lease("z", 9)}})
	c.Replace(cache.Snapshot{Era: "b", Young: true, Revision: 3, Members: []cache.Lease{lease("x", 2)}})
	require.Equal(t, []string{"x", "y", "z"}, names())
	c.Apply([]cache.Change{{Revision: 4, MemberGone: &record.MemberKey{Role: record.RoleCDN, ID: "z"}}})
	c.Replace(cache.Snapshot{Era: "b", Young: true, Revision: 5, Members: []cache.Lease{lease("x", 2)}})
	require.Equal(t, []string{"x", "y"}, names(), "listed again, and one has left")
	c.Apply([]cache.Change{{Revision: 6, Grown: true}})
	require.Equal(t, []string{"x"}, names())
}
