package registrations_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func generous() registrations.Config {
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

// known tells whether a replay of the peer would forward anything.
func known(t *testing.T, store *registrations.Store, peer string) bool {
	t.Helper()
	asked := false
	// Asked long after the registration, which counts as told.
	_, err := store.Replay(t.Context(), key(peer), time.Now().Add(time.Hour),
		func(context.Context, *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
			asked = true
			return registrations.Facts{}, errors.New("enough")
		})
	require.Equal(t, asked, err != nil)
	return asked
}

func TestWhatWasForwardedIsRepeatedAsItWas(t *testing.T) {
	store := newStore(t, generous())
	store.Put(registration("a"), facts)
	var got *schedulerv1.RegisterPeerRequest
	ok, err := store.Replay(t.Context(), key("a"), time.Now(), func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
		require.True(t, in.GetAgain())
		in.Again = false
		got = in
		return facts, nil
	})
	require.NoError(t, err)
	require.True(t, ok)
	require.True(t, proto.Equal(registration("a"), got))
	require.False(t, known(t, store, "b"))
}

func TestTheNewestRegistrationCounts(t *testing.T) {
	store := newStore(t, generous())
	store.Put(registration("a"), facts)
	newer := registration("a")
	newer.Source.Headers = []string{"Authorization: fresh"}
	store.Put(newer, facts)
	_, err := store.Replay(t.Context(), key("a"), time.Now(), func(_ context.Context, in *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
		require.Equal(t, newer.Source.Headers, in.GetSource().GetHeaders())
		return facts, nil
	})
	require.NoError(t, err)
}

func TestNumberIsBounded(t *testing.T) {
	cfg := generous()
	cfg.Entries = 3
	store := newStore(t, cfg)
	for i := range 3 {
		store.Put(registration(fmt.Sprint(i)), facts)
	}
	store.Touch(key("0"))
	store.End(key("2"))
	store.Put(registration("3"), facts)
	require.False(t, known(t, store, "2"), "who ended goes first")
	store.Put(registration("4"), facts)
	require.False(t, known(t, store, "1"), "then who was not heard of for longest")
	for _, peer := range []string{"0", "3", "4"} {
		require.True(t, known(t, store, peer), peer)
	}
}

func TestBytesAreBounded(t *testing.T) {
	cfg := generous()
	cfg.Bytes = 8 << 10
	store := newStore(t, cfg)
	store.Put(registration("small"), facts)
	big := registration("big")
	big.Source.RootCas = [][]byte{make([]byte, 7<<10)}
	store.Put(big, facts)
	require.True(t, known(t, store, "small"))
	require.True(t, known(t, store, "big"))
	store.Put(registration("next"), facts)
	store.Put(registration("last"), facts)
	require.False(t, known(t, store, "small"))
	require.False(t, known(t, store, "big"))
	require.True(t, known(t, store, "next"))
	big.Source.RootCas = [][]byte{make([]byte, 9<<10)}
	store.Put(big, facts)
	require.False(t, known(t, store, "big"), "what has no room at all is not kept")
	store.Put(registration("after"), facts)
	require.True(t, known(t, store, "after"), "the count comes out right")
}

func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newStore(t, generous())
		for _, peer := range []string{"idle", "busy", "done"} {
			store.Put(registration(peer), facts)
		}
		store.End(key("done"))
		wait(50 * time.Second)
		store.Touch(key("done"))
		require.True(t, known(t, store, "done"), "reports may come behind the end")
		wait(11 * time.Second)
		require.False(t, known(t, store, "done"))
		wait(50 * time.Minute)
		store.Touch(key("busy"))
		wait(20 * time.Minute)
		require.False(t, known(t, store, "idle"))
		require.True(t, known(t, store, "busy"))
	})
}

func wait(d time.Duration) { <-time.After(d) }

// TestCallsThatComeTogetherForwardOnce has many calls of one client fail.
func TestCallsThatComeTogetherForwardOnce(t *testing.T) {
	store := newStore(t, generous())
	store.Put(registration("a"), facts)
	since := time.Now()
	var forwarded int // guarded by the turn
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			ok, err := store.Replay(t.Context(), key("a"), since, func(context.Context, *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
				forwarded++
				return facts, nil
			})
			if !ok || err != nil {
				t.Errorf("replay: %v %v", ok, err)
			}
		})
	}
	group.Wait()
	require.Equal(t, 1, forwarded)
	ok, err := store.Replay(t.Context(), key("a"), time.Now(), func(context.Context, *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
		forwarded++
		return facts, nil
	})
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, 2, forwarded, "a later failure is another one")
}

func TestWhoWaitsForAnotherMayGo(t *testing.T) {
	store := newStore(t, generous())
	store.Put(registration("a"), facts)
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	since := time.Now()
	go func() {
		defer close(ended)
		_, _ = store.Replay(t.Context(), key("a"), since, func(context.Context, *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
			close(begun)
			<-release
			return facts, nil
		})
	}()
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := store.Replay(ctx, key("a"), since, nil)
	require.ErrorIs(t, err, context.Canceled)
	close(release)
	<-ended
}

func TestAnotherTaskThanTheClientKnows(t *testing.T) {
	for name, c := range map[string]struct {
		told, now registrations.Facts
		goesOn    bool
	}{
		"the same":         {facts, facts, true},
		"other pieces":     {facts, registrations.Facts{Length: 7, PieceSize: 5}, false},
		"other length":     {facts, registrations.Facts{Length: 8, PieceSize: 4}, false},
		"length unknown":   {registrations.Facts{Length: -1, PieceSize: 4}, facts, true},
		"length forgotten": {facts, registrations.Facts{Length: -1, PieceSize: 4}, true},
	} {
		store := newStore(t, generous())
		store.Put(registration("a"), c.told)
		ok, err := store.Replay(t.Context(), key("a"), time.Now(), func(context.Context, *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
			return c.now, nil
		})
		require.NoError(t, err, name)
		require.Equal(t, c.goesOn, ok, name)
		require.Equal(t, c.goesOn, known(t, store, "a"), name)
	}
}
