package store

import (
	"errors"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func TestOperationThatTimesOutIsAbandonedAndOthersAreRejectedUntilItEnds(t *testing.T) {
	g := newGuard(10 * time.Millisecond)
	unblock, ended := make(chan struct{}), make(chan struct{})
	err := g.do("writing", func() error {
		defer close(ended)
		<-unblock
		return nil
	})
	require.True(t, TimedOut(err))
	require.Equal(t, rpcerr.DiskFailed, rpcerr.ReasonOf(err))
	err = g.do("reading", func() error { panic("an operation starts while another is stuck") })
	require.True(t, TimedOut(err))
	close(unblock)
	<-ended
	require.Eventually(t, func() bool { return g.do("reading", func() error { return nil }) == nil }, time.Minute, time.Millisecond)
	require.Zero(t, g.stuck.Load())
}

func TestFileOfAnOperationThatEndsLateIsClosed(t *testing.T) {
	g := newGuard(10 * time.Millisecond)
	path := t.TempDir() + "/file"
	unblock, opened := make(chan struct{}), make(chan *os.File, 1)
	_, err := run(g, "opening", func() (*os.File, error) {
		<-unblock
		file, err := os.Create(path)
		opened <- file
		return file, err
	})
	require.True(t, TimedOut(err))
	close(unblock)
	file := <-opened
	require.Eventually(t, func() bool { return errors.Is(file.Sync(), os.ErrClosed) }, time.Minute, time.Millisecond)
}
