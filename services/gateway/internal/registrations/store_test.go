package registrations_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// largeConfig has limits that a test does not reach.
func largeConfig() registrations.Config {
	return registrations.Config{Entries: 100, Bytes: 1 << 20, Idle: time.Hour, Linger: time.Minute}
}

func newStore(t *testing.T, cfg registrations.Config) *registrations.Store {
	t.Helper()
	store, err := registrations.New(cfg, prometheus.NewRegistry())
	require.NoError(t, err)
	return store
}

func registration(peer string) *schedulerv1.RegisterPeerRequest {
	return &schedulerv1.RegisterPeerRequest{
		TaskId: "t", TaskUrl: "http://h/", Peer: &schedulerv1.Peer{Id: peer},
		Source: &cdnv1.Source{Url: "http://h/?a", Headers: []string{"Authorization: secret"}, RootCas: [][]byte{{0, 1}}},
	}
}

func key(peer string) registrations.Key { return registrations.Key{Task: "t", Peer: peer} }

var facts = registrations.Facts{Length: 7, PieceSize: 4}

// isStored reports whether a replay sends a registration of the peer.
func isStored(t *testing.T, store *registrations.Store, peer string) bool {
	t.Helper()
	sent := false
	// The call that failed begins after the registration, which would count as a
	// replay otherwise.
	_, err := store.Replay(t.Context(), key(peer), time.Now().Add(time.Hour),
		func(context.Context, *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
			sent = true
			return registrations.Facts{}, errors.New("not sent further")
		})
	require.Equal(t, sent, err != nil)
	return sent
}

func TestEndedThenOldestEntriesAreRemovedAboveTheEntryLimit(t *testing.T) {
	cfg := largeConfig()
	cfg.Entries = 3
	store := newStore(t, cfg)
	for i := range 3 {
		store.Put(registration(fmt.Sprint(i)), facts)
	}
	store.Touch(key("0"))
	store.End(key("2"))
	store.Put(registration("3"), facts)
	require.False(t, isStored(t, store, "2"), "an ended entry is removed first")
	store.Put(registration("4"), facts)
	require.False(t, isStored(t, store, "1"), "then the entry that was touched least recently")
	for _, peer := range []string{"0", "3", "4"} {
		require.True(t, isStored(t, store, peer), peer)
	}
}

func TestOldestEntriesAreRemovedAboveTheByteLimit(t *testing.T) {
	cfg := largeConfig()
	cfg.Bytes = 8 << 10
	store := newStore(t, cfg)
	store.Put(registration("small"), facts)
	big := registration("big")
	big.Source.RootCas = [][]byte{make([]byte, 7<<10)}
	store.Put(big, facts)
	require.True(t, isStored(t, store, "small"))
	require.True(t, isStored(t, store, "big"))
	store.Put(registration("next"), facts)
	store.Put(registration("last"), facts)
	require.False(t, isStored(t, store, "small"))
	require.False(t, isStored(t, store, "big"))
	require.True(t, isStored(t, store, "next"))
	big.Source.RootCas = [][]byte{make([]byte, 9<<10)}
	store.Put(big, facts)
	require.False(t, isStored(t, store, "big"), "an entry above the limit is not stored")
	store.Put(registration("after"), facts)
	require.True(t, isStored(t, store, "after"), "the total size is correct after removals")
}

func TestIdleAndEndedEntriesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t, largeConfig())
		for _, peer := range []string{"idle", "busy", "done"} {
			store.Put(registration(peer), facts)
		}
		store.End(key("done"))
		wait(50 * time.Second)
		store.Touch(key("done"))
		require.True(t, isStored(t, store, "done"), "an ended entry is kept for late reports")
		wait(11 * time.Second)
		require.False(t, isStored(t, store, "done"))
		wait(50 * time.Minute)
		store.Touch(key("busy"))
		wait(20 * time.Minute)
		require.False(t, isStored(t, store, "idle"))
		require.True(t, isStored(t, store, "busy"))
	})
}

func wait(d time.Duration) { <-time.After(d) }
