package registrations_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
)

func TestReplaySendsTheStoredRegistrationUnchanged(t *testing.T) {
	store := newStore(t, largeConfig())
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
	require.False(t, isStored(t, store, "b"))
}

func TestReplaySendsTheNewestRegistration(t *testing.T) {
	store := newStore(t, largeConfig())
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

// Many calls of one client fail at the same time.
func TestConcurrentReplaysOfAPeerSendOneRegistration(t *testing.T) {
	store := newStore(t, largeConfig())
	store.Put(registration("a"), facts)
	since := time.Now()
	var forwarded int // Replay runs one register function at a time
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
	require.Equal(t, 2, forwarded, "a failure after the replay causes another replay")
}

func TestReplayThatWaitsForAnotherEndsWithItsContext(t *testing.T) {
	store := newStore(t, largeConfig())
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

func TestReplayIsRejectedIfTheTaskHasChanged(t *testing.T) {
	for name, c := range map[string]struct {
		stored, current registrations.Facts
		accepted        bool
	}{
		"the same":           {facts, facts, true},
		"other piece size":   {facts, registrations.Facts{Length: 7, PieceSize: 5}, false},
		"other length":       {facts, registrations.Facts{Length: 8, PieceSize: 4}, false},
		"length now known":   {registrations.Facts{Length: -1, PieceSize: 4}, facts, true},
		"length now unknown": {facts, registrations.Facts{Length: -1, PieceSize: 4}, true},
	} {
		store := newStore(t, largeConfig())
		store.Put(registration("a"), c.stored)
		ok, err := store.Replay(t.Context(), key("a"), time.Now(), func(context.Context, *schedulerv1.RegisterPeerRequest) (registrations.Facts, error) {
			return c.current, nil
		})
		require.NoError(t, err, name)
		require.Equal(t, c.accepted, ok, name)
		require.Equal(t, c.accepted, isStored(t, store, "a"), name)
	}
}
