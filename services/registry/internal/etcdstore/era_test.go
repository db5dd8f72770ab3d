package etcdstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

var someTask = fmt.Sprintf("%064x", 1)

func rawEra(t *testing.T, client *clientv3.Client) string {
	t.Helper()
	resp, err := client.Get(t.Context(), eraKey)
	require.NoError(t, err)
	if len(resp.Kvs) == 0 {
		return ""
	}
	return string(resp.Kvs[0].Value)
}

// A record of the emptied store may by chance have the revision that one in the former
// store had.
func TestWritesBasedOnAnotherEraAreRefused(t *testing.T) {
	s, client, _ := openStore(t)
	snapshot, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	s.cache.Replace(snapshot)
	require.Equal(t, rawEra(t, client), snapshot.Era)
	swap := Swap{Task: record.Task{ID: someTask, Owner: "c", Epoch: 1}, Era: snapshot.Era, Kind: "claim"}
	task, swapped, err := s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.True(t, swapped)

	_, err = client.Put(t.Context(), eraKey, "another")
	require.NoError(t, err)
	swap.Task = task
	_, swapped, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.False(t, swapped, "the revision is the same, the era is not")
	require.Len(t, s.reset, 1, "Sync lists everything again")
	swapped, err = s.Delete(t.Context(), someTask, snapshot.Era, task.Revision)
	require.NoError(t, err)
	require.False(t, swapped)
	_, err = client.Delete(t.Context(), eraKey)
	require.NoError(t, err)
	_, swapped, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.False(t, swapped, "the store has no era")

	state, err := s.ReadState(t.Context(), someTask)
	require.NoError(t, err)
	require.NotEmpty(t, state.Era)
	require.NotEqual(t, snapshot.Era, state.Era)
	require.Equal(t, task, state.Tasks[someTask])
	swap.Era = state.Era
	_, swapped, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.True(t, swapped)
}

// A backup contains the era that the store had at that time.
func TestStoreWhoseRevisionHasGoneBackGetsANewEra(t *testing.T) {
	s, client, _ := openStore(t)
	snapshot, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	later := snapshot
	later.Revision += 100
	s.cache.Replace(later)
	again, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, snapshot.Era, again.Era)
	require.Equal(t, rawEra(t, client), again.Era)
	s.cache.Replace(again)
	same, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	require.Equal(t, again.Era, same.Era, "it gets only one new era")
}

func TestStoreIsYoungOnlyIfItReplacesAnotherOne(t *testing.T) {
	s, client, _ := openStore(t)
	s.ttl = 5 * time.Second // the store must still be young at the first swap
	state, err := s.ReadState(t.Context(), someTask)
	require.NoError(t, err)
	require.False(t, state.Young, "it is the first store")
	first, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	s.cache.Replace(first)
	_, err = client.Delete(t.Context(), root, clientv3.WithPrefix())
	require.NoError(t, err)

	state, err = s.ReadState(t.Context(), someTask)
	require.NoError(t, err)
	require.True(t, state.Young)
	swap := Swap{
		Task: record.Task{ID: someTask, Owner: "c", Epoch: 1}, Era: state.Era,
		Absent: []record.MemberKey{{Role: record.RoleCDN, ID: "gone"}}, Kind: "claim",
	}
	_, swapped, err := s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.False(t, swapped, "no member is gone while the store is young")
	require.Eventually(t, func() bool {
		state, err = s.ReadState(t.Context(), someTask)
		return err == nil && !state.Young
	}, 30*time.Second, 50*time.Millisecond)
	_, swapped, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.True(t, swapped)
}

// The registry that has given the new store its era may have been restarted with the
// store, so that it does not have the former era. The next registry does.
func TestStoreThatGotItsEraFromARestartedRegistryIsMarkedAsYoung(t *testing.T) {
	s, client, _ := openStore(t)
	snapshot, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	require.False(t, snapshot.Young)
	s.cache.Replace(snapshot)
	_, err = client.Put(t.Context(), eraKey, "of another registry")
	require.NoError(t, err)
	again, err := s.listWithEra(t.Context())
	require.NoError(t, err)
	require.Equal(t, "of another registry", again.Era)
	require.True(t, again.Young)
	state, err := s.ReadState(t.Context(), someTask)
	require.NoError(t, err)
	require.True(t, state.Young)
}

func TestSyncListsEverythingAgainInAnotherEra(t *testing.T) {
	for name, change := range map[string]func(*testing.T, *Store, *clientv3.Client) error{
		"deleted": func(t *testing.T, _ *Store, c *clientv3.Client) error {
			_, err := c.Delete(t.Context(), root, clientv3.WithPrefix())
			return err
		},
		"replaced": func(t *testing.T, _ *Store, c *clientv3.Client) error {
			_, err := c.Put(t.Context(), eraKey, "another")
			return err
		},
		"found by a call": func(t *testing.T, s *Store, _ *clientv3.Client) error {
			s.checkEra("another")
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			s, client, _ := openStore(t)
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() {
				defer close(done)
				s.Sync(ctx)
			}()
			defer func() { cancel(); <-done }()
			<-s.cache.Synced()
			watch := s.cache.Watch(record.MemberKey{Role: record.RoleCDN, ID: "c"})
			defer watch.Close()
			before, _ := s.cache.Position()
			require.NoError(t, change(t, s, client))
			<-watch.Ended()
			after, _ := s.cache.Position()
			require.Equal(t, name == "found by a call", before == after)
			require.Equal(t, rawEra(t, client), after)
		})
	}
}
