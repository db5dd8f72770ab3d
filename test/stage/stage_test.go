package stage_test

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/stage"
)

func TestAllIsCleanedUpWhateverHappens(t *testing.T) {
	var order []int
	var dir string
	err := stage.Run(t.Context(), "play", io.Discard, func(s *stage.Stage) {
		dir = s.TempDir()
		assert.DirExists(t, dir) // require would end the goroutine of the play, not the test
		assert.NotEqual(t, dir, s.TempDir())
		s.Cleanup(func() {
			order = append(order, 1)
			assert.Error(t, s.Context().Err())
			assert.True(t, s.Failed())
		})
		s.Cleanup(func() {
			order = append(order, 2)
			s.Fatalf("at the end")
		})
		assert.False(t, s.Failed())
		s.Fatalf("of %d", 1)
		order = append(order, 3)
	})
	require.ErrorContains(t, err, "of 1")
	require.ErrorContains(t, err, "at the end")
	require.Equal(t, []int{2, 1}, order)
	_, err = os.Stat(dir)
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestWhatGoesWellIsNoError(t *testing.T) {
	require.NoError(t, stage.Run(t.Context(), "play", io.Discard, func(s *stage.Stage) { s.Logf("well") }))
}

func TestWhoIsToldToEndHasNotFailed(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	told := errors.New("told to")
	err := stage.Run(ctx, "play", io.Discard, func(s *stage.Stage) {
		cancel(told)
		<-s.Context().Done()
		s.Errorf("in the midst of it")
		assert.False(t, s.Failed())
	})
	require.Equal(t, told, err)
}
