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

func TestSwapWritesOnlyIfAllConditionsHold(t *testing.T) {
	s, _, _ := openStore(t)
	present, absent := someCDN("present"), record.MemberKey{Role: record.RoleCDN, ID: "absent"}
	_, err := s.Heartbeat(t.Context(), present)
	require.NoError(t, err)
	state, err := s.ReadState(t.Context(), someTask)
	require.NoError(t, err)
	require.Zero(t, state.Tasks[someTask].Revision)
	swap := func(change func(*Swap)) (record.Task, bool) {
		w := Swap{
			Task: record.Task{ID: someTask, Owner: "present", Epoch: 1}, Era: state.Era,
			Present: []record.MemberKey{present.Key()}, Absent: []record.MemberKey{absent}, Kind: "claim",
		}
		change(&w)
		task, swapped, err := s.Swap(t.Context(), w)
		require.NoError(t, err)
		return task, swapped
	}
	for name, violate := range map[string]func(*Swap){
		"a member that must be absent exists":  func(w *Swap) { w.Absent = append(w.Absent, present.Key()) },
		"a member that must be present is not": func(w *Swap) { w.Present = append(w.Present, absent) },
		"the record to replace does not exist": func(w *Swap) { w.Task.Revision = 1 },
		"another era":                          func(w *Swap) { w.Era = "another" },
	} {
		_, swapped := swap(violate)
		require.False(t, swapped, name)
	}
	first, swapped := swap(func(*Swap) {})
	require.True(t, swapped)
	_, swapped = swap(func(*Swap) {})
	require.False(t, swapped, "there is a record already")
	second, swapped := swap(func(w *Swap) { w.Task.Revision = first.Revision })
	require.True(t, swapped)
	_, swapped = swap(func(w *Swap) { w.Task.Revision = first.Revision })
	require.False(t, swapped, "the record has changed")
	cached, _, _ := s.cache.Task(someTask)
	require.Equal(t, second, cached, "the cache has the write")
	swapped, err = s.Delete(t.Context(), someTask, state.Era, first.Revision)
	require.NoError(t, err)
	require.False(t, swapped)
	swapped, err = s.Delete(t.Context(), someTask, state.Era, second.Revision)
	require.NoError(t, err)
	require.True(t, swapped)
}

func TestReadStateReturnsMembersWithADrainMarkAsDraining(t *testing.T) {
	s, _, _ := openStore(t)
	for _, id := range []string{"a", "b"} {
		_, err := s.Heartbeat(t.Context(), someCDN(id))
		require.NoError(t, err)
	}
	key := someCDN("a").Key()
	stateOfA := func() record.State {
		state, err := s.ReadState(t.Context(), someTask)
		require.NoError(t, err)
		require.Len(t, state.Members, 2)
		require.Equal(t, record.StateReady, state.Members[someCDN("b").Key()].State)
		return state.Members[key].State
	}
	require.NoError(t, s.Drain(t.Context(), key, true))
	require.Equal(t, record.StateDraining, stateOfA())
	require.NoError(t, s.Drain(t.Context(), key, false))
	require.Equal(t, record.StateReady, stateOfA())
}
