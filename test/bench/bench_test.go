// Package bench measures downloads through real supernode processes, with peers
// and a source on loopback: through one that nothing happens to, and from one
// that is killed on to another. It asserts nothing about time.
package bench

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

var binaries *cluster.Binaries

func TestMain(m *testing.M) {
	var err error
	if binaries, err = cluster.Build(context.Background(), false); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = binaries.Remove()
	os.Exit(code)
}

// BenchmarkDownload is the time from the first peer's start to the last one's
// end for a file that nobody has, and
//   - pulls: the share of the peers' time spent in pulls, answered or held;
//   - idle: the share spent waiting for an answer that had nothing to give
//     (a 602) and sleeping after it;
//   - cdn: the share of the bytes that the CDN sent.
func BenchmarkDownload(b *testing.B) {
	for _, c := range []struct {
		name  string
		size  int64
		peers int
	}{
		{"300KB/1", 300_000, 1},
		{"9MB/1", 9_000_000, 1},
		{"200MB/1", 200 << 20, 1},
		{"9MB/20", 9_000_000, 20},
		{"200MB/5", 200 << 20, 5},
		{"200MB/20", 200 << 20, 20},
	} {
		b.Run(c.name, func(b *testing.B) { measure(b, c.size, c.peers) })
	}
}

func measure(b *testing.B, size int64, peers int) {
	node := cluster.StartSupernode(b, binaries, cluster.Net(b)(1), b.TempDir(), "--max-bandwidth", "0")
	o, err := origin.Start(origin.Config{})
	require.NoError(b, err)
	defer o.Close()
	address := cluster.Net(b)
	buffers := &peer.Buffers{}
	var held, idle, all time.Duration
	var fromCDN, fromPeers int64
	b.SetBytes(size * int64(peers))
	b.StopTimer()
	b.ResetTimer()
	for i := range b.N {
		path := fmt.Sprintf("/%d", i)
		o.Put(path, origin.File{Size: size, Seed: 1})
		configs := make([]peer.Config, peers)
		for p := range configs {
			configs[p] = peer.Config{
				Nodes: []string{node.REST}, IP: address(1 + p), Dir: b.TempDir(), URL: o.URL(path), NoBackSource: true, Buffers: buffers,
			}
		}
		s, err := swarm.New(configs)
		require.NoError(b, err)
		b.StartTimer()
		tally := s.Download(context.Background())
		b.StopTimer()
		s.Close()
		require.NoError(b, tally.Err())
		require.EqualValues(b, 1, o.Stats(path).Bodies)
		held, idle, all = held+tally.HoldTime, idle+tally.WaitTime, all+tally.PeerTime
		fromCDN, fromPeers = fromCDN+tally.FromCDN, fromPeers+tally.FromPeers
		for _, cfg := range configs {
			require.NoError(b, os.RemoveAll(cfg.Dir))
		}
	}
	b.ReportMetric(float64(b.Elapsed().Milliseconds())/float64(b.N), "ms/download")
	b.ReportMetric(float64(held)/float64(all), "pulls")
	b.ReportMetric(float64(idle)/float64(all), "idle")
	b.ReportMetric(float64(fromCDN)/float64(fromCDN+fromPeers), "cdn")
}
