package etcdstore

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

func someCDN(id string) record.Member {
	return record.Member{
		Role: record.RoleCDN, ID: id, Endpoint: "127.0.0.1:1", DownloadIP: "127.0.0.1", DownloadPort: 1, State: record.StateReady,
	}
}

func TestSwapHoldsOnlyUnderItsConditions(t *testing.T) {
	s, _, _ := openStore(t)
	there, gone := someCDN("there"), record.MemberKey{Role: record.RoleCDN, ID: "gone"}
	_, err := s.Heartbeat(t.Context(), there)
	require.NoError(t, err)
	scene, err := s.Look(t.Context(), someTask)
	require.NoError(t, err)
	require.Zero(t, scene.Tasks[someTask].Revision)
	swap := func(change func(*Swap)) (record.Task, bool) {
		w := Swap{
			Task: record.Task{ID: someTask, Owner: "there", Epoch: 1}, Era: scene.Era,
			There: []record.MemberKey{there.Key()}, Gone: []record.MemberKey{gone}, Kind: "claim",
		}
		change(&w)
		task, won, err := s.Swap(t.Context(), w)
		require.NoError(t, err)
		return task, won
	}
	for name, spoil := range map[string]func(*Swap){
		"who should be gone is there": func(w *Swap) { w.Gone = append(w.Gone, there.Key()) },
		"who should be there is gone": func(w *Swap) { w.There = append(w.There, gone) },
		"there is no record yet":      func(w *Swap) { w.Task.Revision = 1 },
		"another era":                 func(w *Swap) { w.Era = "another" },
	} {
		_, won := swap(spoil)
		require.False(t, won, name)
	}
	first, won := swap(func(*Swap) {})
	require.True(t, won)
	_, won = swap(func(*Swap) {})
	require.False(t, won, "there is a record by now")
	second, won := swap(func(w *Swap) { w.Task.Revision = first.Revision })
	require.True(t, won)
	_, won = swap(func(w *Swap) { w.Task.Revision = first.Revision })
	require.False(t, won, "the record has changed")
	copied, _, _ := s.cache.Task(someTask)
	require.Equal(t, second, copied, "the copy has what was written here")
	won, err = s.Delete(t.Context(), someTask, scene.Era, first.Revision)
	require.NoError(t, err)
	require.False(t, won)
	won, err = s.Delete(t.Context(), someTask, scene.Era, second.Revision)
	require.NoError(t, err)
	require.True(t, won)
}

func TestLookShowsMarkedMembersDraining(t *testing.T) {
	s, _, _ := openStore(t)
	for _, id := range []string{"a", "b"} {
		_, err := s.Heartbeat(t.Context(), someCDN(id))
		require.NoError(t, err)
	}
	key := someCDN("a").Key()
	state := func() record.State {
		scene, err := s.Look(t.Context(), someTask)
		require.NoError(t, err)
		require.Len(t, scene.Members, 2)
		require.Equal(t, record.StateReady, scene.Members[someCDN("b").Key()].State)
		return scene.Members[key].State
	}
	require.NoError(t, s.Drain(t.Context(), key, true))
	require.Equal(t, record.StateDraining, state())
	require.NoError(t, s.Drain(t.Context(), key, false))
	require.Equal(t, record.StateReady, state())
}
