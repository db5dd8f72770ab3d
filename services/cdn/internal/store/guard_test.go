package store

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func TestGuardLeavesWhatHangsBehind(t *testing.T) {
	g := newGuard(10 * time.Millisecond)
	hangs, ended := make(chan struct{}), make(chan struct{})
	err := g.do("writing", func() error {
		defer close(ended)
		<-hangs
		return nil
	})
	require.True(t, Hangs(err))
	require.Equal(t, rpcerr.DiskFailed, rpcerr.ReasonOf(err))
	err = g.do("reading", func() error { panic("nothing is begun while something hangs") })
	require.True(t, Hangs(err))
	close(hangs)
	<-ended
	require.Eventually(t, func() bool { return g.do("reading", func() error { return nil }) == nil }, time.Minute, time.Millisecond)
	require.Zero(t, g.stuck.Load())
}

// What nobody waits for any more is let go.
func TestGuardClosesWhatComesTooLate(t *testing.T) {
	g := newGuard(10 * time.Millisecond)
	path := t.TempDir() + "/file"
	hangs, opened := make(chan struct{}), make(chan *os.File, 1)
	_, err := run(g, "opening", func() (*os.File, error) {
		<-hangs
		file, err := os.Create(path)
		opened <- file
		return file, err
	})
	require.True(t, Hangs(err))
	close(hangs)
	file := <-opened
	require.Eventually(t, func() bool { return errors.Is(file.Sync(), os.ErrClosed) }, time.Minute, time.Millisecond)
}
