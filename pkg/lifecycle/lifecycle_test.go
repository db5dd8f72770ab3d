package lifecycle_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPartsStopInReverseOrder(t *testing.T) {
	g := lifecycle.NewGroup(zap.NewNop(), time.Minute)
	ended := make(chan string, 3)
	for _, name := range []string{"store", "service", "front"} {
		g.Add(name, func(ctx context.Context) error {
			<-ctx.Done()
			ended <- name
			return ctx.Err()
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.NoError(t, g.Run(ctx))
	require.Equal(t, []string{"front", "service", "store"}, []string{<-ended, <-ended, <-ended})
}

func TestPartThatReturnsAnErrorStopsTheOthers(t *testing.T) {
	g := lifecycle.NewGroup(zap.NewNop(), time.Minute)
	cause := errors.New("port taken")
	g.Add("store", func(ctx context.Context) error { <-ctx.Done(); return nil })
	g.Add("front", func(context.Context) error { return cause })
	err := g.Run(t.Context())
	require.ErrorIs(t, err, cause)
	require.ErrorContains(t, err, "front")
}

func TestPartThatReturnsBeforeTheStopIsAnError(t *testing.T) {
	for _, end := range []error{nil, context.Canceled} {
		g := lifecycle.NewGroup(zap.NewNop(), time.Minute)
		g.Add("front", func(context.Context) error { return end })
		require.ErrorContains(t, g.Run(t.Context()), "front ended by itself")
	}
}

func TestRunReturnsIfAPartDoesNotStopInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := lifecycle.NewGroup(zap.NewNop(), time.Minute)
		release := make(chan struct{})
		defer close(release)
		g.Add("stuck", func(context.Context) error { <-release; return nil })
		require.ErrorContains(t, g.Run(stopped(t)), "stuck did not end within 1m0s")
	})
}

// A slow part reduces the time of the next ones, but not below minGrace.
func TestPartsShareTheGracePeriod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := lifecycle.NewGroup(zap.NewNop(), 10*time.Second)
		slow := func(d time.Duration) func(context.Context) error {
			return func(ctx context.Context) error { <-ctx.Done(); <-time.After(d); return nil }
		}
		release := make(chan struct{})
		defer close(release)
		g.Add("last", slow(time.Second))
		g.Add("stuck twice", func(context.Context) error { <-release; return nil })
		g.Add("stuck", func(context.Context) error { <-release; return nil })
		g.Add("first", slow(7*time.Second))
		err := g.Run(stopped(t))
		require.ErrorContains(t, err, "stuck did not end within 3s")
		require.ErrorContains(t, err, "stuck twice did not end within 2s")
		require.NotContains(t, err.Error(), "last")
	})
}

func stopped(t *testing.T) context.Context {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	return ctx
}
