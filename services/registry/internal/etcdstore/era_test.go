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

// A record of a store that was emptied may by chance have a revision that one
// of the store from before had.
func TestWritesOfAnotherEraAreRefused(t *testing.T) {
	s, client, _ := openStore(t)
	snapshot, err := s.listEra(t.Context())
	require.NoError(t, err)
	s.cache.Replace(snapshot)
	require.Equal(t, rawEra(t, client), snapshot.Era)
	swap := Swap{Task: record.Task{ID: someTask, Owner: "c", Epoch: 1}, Era: snapshot.Era, Kind: "claim"}
	task, won, err := s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.True(t, won)

	_, err = client.Put(t.Context(), eraKey, "another")
	require.NoError(t, err)
	swap.Task = task
	_, won, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.False(t, won, "its revision is the same, its era is not")
	require.Len(t, s.reset, 1, "everything is listed again")
	won, err = s.Delete(t.Context(), someTask, snapshot.Era, task.Revision)
	require.NoError(t, err)
	require.False(t, won)
	_, err = client.Delete(t.Context(), eraKey)
	require.NoError(t, err)
	_, won, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.False(t, won, "nor in one that has none yet")

	scene, err := s.Look(t.Context(), someTask)
	require.NoError(t, err)
	require.NotEmpty(t, scene.Era)
	require.NotEqual(t, snapshot.Era, scene.Era)
	require.Equal(t, task, scene.Tasks[someTask])
	swap.Era = scene.Era
	_, won, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.True(t, won)
}

// A backup has the era that the store had then.
func TestStoreThatWentBackBeginsAnotherEra(t *testing.T) {
	s, client, _ := openStore(t)
	snapshot, err := s.listEra(t.Context())
	require.NoError(t, err)
	later := snapshot
	later.Revision += 100
	s.cache.Replace(later)
	again, err := s.listEra(t.Context())
	require.NoError(t, err)
	require.NotEqual(t, snapshot.Era, again.Era)
	require.Equal(t, rawEra(t, client), again.Era)
	s.cache.Replace(again)
	same, err := s.listEra(t.Context())
	require.NoError(t, err)
	require.Equal(t, again.Era, same.Era, "once")
}

// A store that takes another's place is young: whoever is no member of it may
// be one in a moment. One that nobody remembers another for is not.
func TestStoreInAnothersPlaceIsYoung(t *testing.T) {
	s, client, _ := openStore(t)
	s.ttl = 5 * time.Second // it must be young still when the first swap is tried
	scene, err := s.Look(t.Context(), someTask)
	require.NoError(t, err)
	require.False(t, scene.Young, "the first store that there is")
	first, err := s.listEra(t.Context())
	require.NoError(t, err)
	s.cache.Replace(first)
	_, err = client.Delete(t.Context(), root, clientv3.WithPrefix())
	require.NoError(t, err)

	scene, err = s.Look(t.Context(), someTask)
	require.NoError(t, err)
	require.True(t, scene.Young)
	swap := Swap{
		Task: record.Task{ID: someTask, Owner: "c", Epoch: 1}, Era: scene.Era,
		Gone: []record.MemberKey{{Role: record.RoleCDN, ID: "gone"}}, Kind: "claim",
	}
	_, won, err := s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.False(t, won, "nobody is gone yet")
	require.Eventually(t, func() bool {
		scene, err = s.Look(t.Context(), someTask)
		return err == nil && !scene.Young
	}, 30*time.Second, 50*time.Millisecond)
	_, won, err = s.Swap(t.Context(), swap)
	require.NoError(t, err)
	require.True(t, won)
}

// The registry that comes first to a new store may have been restarted with it,
// and remember none; the next one does.
func TestStoreBegunByOneWithoutMemoryIsYoungAllTheSame(t *testing.T) {
	s, client, _ := openStore(t)
	snapshot, err := s.listEra(t.Context())
	require.NoError(t, err)
	require.False(t, snapshot.Young)
	s.cache.Replace(snapshot)
	_, err = client.Put(t.Context(), eraKey, "another's")
	require.NoError(t, err)
	again, err := s.listEra(t.Context())
	require.NoError(t, err)
	require.Equal(t, "another's", again.Era)
	require.True(t, again.Young)
	scene, err := s.Look(t.Context(), someTask)
	require.NoError(t, err)
	require.True(t, scene.Young)
}

func TestSyncNoticesAnotherEra(t *testing.T) {
	for name, harm := range map[string]func(*testing.T, *Store, *clientv3.Client) error{
		"deleted": func(t *testing.T, _ *Store, c *clientv3.Client) error {
			_, err := c.Delete(t.Context(), root, clientv3.WithPrefix())
			return err
		},
		"replaced": func(t *testing.T, _ *Store, c *clientv3.Client) error {
			_, err := c.Put(t.Context(), eraKey, "another")
			return err
		},
		"met by a call": func(t *testing.T, s *Store, _ *clientv3.Client) error {
			s.met("another")
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
			require.NoError(t, harm(t, s, client))
			<-watch.Ended()
			after, _ := s.cache.Position()
			require.Equal(t, name == "met by a call", before == after)
			require.Equal(t, rawEra(t, client), after)
		})
	}
}
