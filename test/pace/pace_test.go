package pace_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/pace"
)

func TestAPauseLastsAsLongAsItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		require.True(t, pace.Pause(t.Context(), time.Second))
		require.Equal(t, time.Second, time.Since(began))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.False(t, pace.Pause(ctx, time.Hour))
		require.Equal(t, 2*time.Second, time.Since(began))
	})
}

func TestATimeIsWithinItsBounds(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		d := pace.Between(random, time.Second, time.Second+2)
		require.GreaterOrEqual(t, d, time.Second)
		require.Less(t, d, time.Second+2)
	}
}
