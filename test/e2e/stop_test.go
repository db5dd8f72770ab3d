package e2e

import (
	"context"
	"net/http"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

const stopFileSize = 24_000_000

// stopWhileDownloading starts three peers, and stops the supernode once its source has
// sent a quarter of the file.
func stopWhileDownloading(t *testing.T, adapt func(*origin.File), args ...string) (node *stopped, done <-chan swarm.Tally) {
	t.Helper()
	n := oneSupernode(t, args...)
	o := source(t)
	f, sum := file(stopFileSize, 61)
	adapt(&f)
	o.Put("/f", f)
	s, err := swarm.New(peers(t, 3, o.URL("/f"), n.REST))
	require.NoError(t, err)
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	tallies := make(chan swarm.Tally, 1)
	go func() { tallies <- s.Download(ctx) }()
	require.NoError(t, o.Await(t.Context(), "/f", func(s origin.Stats) bool { return s.BytesSent > stopFileSize/4 }))
	require.NoError(t, n.Signal(syscall.SIGTERM))
	return &stopped{Supernode: n, url: o.URL("/f"), sum: sum, giveUp: cancel}, tallies
}

// stopped is a supernode that was told to stop while peers download from it.
type stopped struct {
	*cluster.Supernode
	url, sum string
	giveUp   context.CancelFunc // of the peers
}

func TestSupernodeThatStopsAloneFinishesTheDownloadsInProgress(t *testing.T) {
	node, done := stopWhileDownloading(t, func(f *origin.File) { f.Rate = stopFileSize / 6 })
	require.Eventually(t, func() bool { return registerCode(t, node.REST, node.url) == http.StatusServiceUnavailable },
		3*time.Second, 50*time.Millisecond, "a new registration is refused, also one for the same file")
	tally := <-done
	require.NoError(t, tally.Err())
	for _, o := range tally.Outcomes {
		require.Equal(t, node.sum, o.MD5)
	}
	onlyCodesOfAHealthyCluster(t, tally)
	require.NoError(t, node.Ended(limit))
}

func TestSupernodeThatStopsAloneEndsWithTheGracePeriod(t *testing.T) {
	node, done := stopWhileDownloading(t, func(f *origin.File) { f.StallAfter = stopFileSize / 2 }, "--grace-period", "6s")
	require.NoError(t, node.Ended(limit))
	node.giveUp()
	require.Error(t, (<-done).Err(), "there was one supernode, and no way back to the source")
}

func TestVanishedPeersDoNotDelayTheStop(t *testing.T) {
	node := oneSupernode(t)
	o := source(t)
	f, _ := file(20_000_000, 62)
	o.Put("/f", f)
	config := peers(t, 1, o.URL("/f"), node.REST)[0]
	config.Faults = peer.Faults{CrashAfter: 2}
	p, err := peer.New(config)
	require.NoError(t, err)
	_, err = p.Download(t.Context())
	require.Error(t, err)
	p.Close()
	require.NoError(t, node.Stop())
	require.NotContains(t, node.Log(), "peers are not finished")
}
