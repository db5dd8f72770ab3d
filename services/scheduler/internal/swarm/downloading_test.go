package swarm

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestDownloadingCountsThePeersThatTheEndWouldInterrupt(t *testing.T) {
	s := newSwarm(t, 1, "silent", "downloads", "finished", "left")
	now := start.Add(time.Second)
	require.Len(t, s.Offer("downloads", now), 1)
	require.NoError(t, s.Written("finished", 0, size, now))
	require.NoError(t, s.Down("left", now))
	require.Equal(t, 3, s.Downloading(now), "all but the one that left")
	now = now.Add(resultGrace)
	require.Equal(t, 2, s.Downloading(now), "the finished one has its result by now")
	now = now.Add(pullGrace - resultGrace)
	require.Equal(t, 1, s.Downloading(now), "the silent one has vanished")
	for range 2 {
		now = now.Add(time.Hour)
		s.Tick(now) // the transfer becomes overdue
	}
	require.Zero(t, s.Downloading(now))
}
