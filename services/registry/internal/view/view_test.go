package view_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/view"
)

func cdn(id string, rev int64) *view.Lease {
	return &view.Lease{Member: record.Member{Role: record.RoleCDN, ID: id}, ID: rev, Revision: rev}
}

func task(rev int64) *record.Task { return &record.Task{ID: "t", Revision: rev} }

func TestNewestOfAKeyWins(t *testing.T) {
	v, id := view.New(), "t"
	v.Replace(view.Snapshot{Revision: 10})
	v.Feed("", view.Change{Revision: 12, Task: task(12)})
	v.Apply([]view.Change{{Revision: 11, Task: task(11)}})
	got, _, ok := v.Task(id)
	require.True(t, ok)
	require.EqualValues(t, 12, got.Revision, "the watch is behind what was written here")

	v.Feed("", view.Change{Revision: 13, TaskGone: &id})
	v.Apply([]view.Change{{Revision: 12, Task: task(12)}})
	_, _, ok = v.Task(id)
	require.False(t, ok, "deleted here, the watch is behind")

	v.Apply([]view.Change{{Revision: 13, TaskGone: &id}, {Revision: 14, Task: task(14)}, {Revision: 15, TaskGone: &id}})
	v.Feed("", view.Change{Revision: 14, Task: task(14)})
	_, _, ok = v.Task(id)
	require.False(t, ok, "news that the watch has overtaken are old")
	_, records := v.Counts()
	require.Zero(t, records)
}

func TestListReplacesAllButLaterWrites(t *testing.T) {
	v := view.New()
	v.Replace(view.Snapshot{Revision: 5, Members: []view.Lease{*cdn("a", 4), *cdn("b", 5)}})
	v.Feed("", view.Change{Revision: 8, Member: cdn("c", 8)})
	v.Replace(view.Snapshot{Revision: 7, Members: []view.Lease{*cdn("b", 5)}})
	members, _ := v.Members()
	require.Len(t, members, 2, "a left, c came after the list: %v", members)
	v.Replace(view.Snapshot{Revision: 2, Members: []view.Lease{*cdn("z", 2)}})
	members, _ = v.Members()
	require.Len(t, members, 1, "a reset store has no past")
}

func TestOnlyNewsWake(t *testing.T) {
	v := view.New()
	v.Replace(view.Snapshot{Revision: 1, Members: []view.Lease{*cdn("a", 1)}})
	_, changed := v.Members()
	v.Apply([]view.Change{{Revision: 2, Member: cdn("a", 2)}, {Revision: 3, Task: task(3)}})
	v.Replace(view.Snapshot{Revision: 4, Members: []view.Lease{*cdn("a", 2)}})
	select {
	case <-changed:
		require.Fail(t, "nothing changed")
	default:
	}
	gone := record.MemberKey{Role: record.RoleCDN, ID: "a"}
	v.Apply([]view.Change{{Revision: 5, MemberGone: &gone}})
	<-changed
}

// Members of a store are expected in the one that takes its place, until they
// leave or it is young no more.
func TestMembersAreExpectedInAYoungStore(t *testing.T) {
	v := view.New()
	lease := func(id string, rev int64) view.Lease {
		return view.Lease{Member: record.Member{Role: record.RoleCDN, ID: id, State: record.StateReady}, ID: 1, Revision: rev}
	}
	names := func() (ids []string) {
		members, _ := v.Members()
		for _, m := range members {
			_, there := v.Member(m.Key())
			require.True(t, there)
			ids = append(ids, m.ID)
		}
		return ids
	}
	v.Replace(view.Snapshot{Era: "a", Revision: 9, Members: []view.Lease{lease("x", 7), lease("y", 8), lease("z", 9)}})
	v.Replace(view.Snapshot{Era: "b", Young: true, Revision: 3, Members: []view.Lease{lease("x", 2)}})
	require.Equal(t, []string{"x", "y", "z"}, names())
	v.Apply([]view.Change{{Revision: 4, MemberGone: &record.MemberKey{Role: record.RoleCDN, ID: "z"}}})
	v.Replace(view.Snapshot{Era: "b", Young: true, Revision: 5, Members: []view.Lease{lease("x", 2)}})
	require.Equal(t, []string{"x", "y"}, names(), "listed again, and one has left")
	v.Apply([]view.Change{{Revision: 6, Grown: true}})
	require.Equal(t, []string{"x"}, names())
}
