package swarm

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// BenchmarkPeer measures the memory per peer that is idle after its registration
// or its download, and per peer that is busy: it has as many pieces under way as
// its limits allow. The pieces themselves are not counted, but the peer's places in
// their lists of holders are.
func BenchmarkPeer(b *testing.B) {
	for _, c := range []struct {
		state  string
		pieces int
	}{{"idle", 0}, {"idle", 51}, {"busy", 51}, {"idle", 1000}} {
		b.Run(fmt.Sprintf("%s/pieces=%d", c.state, c.pieces), func(b *testing.B) {
			const peers = 1000
			var bytes uint64
			for b.Loop() {
				s := newSwarm(b, c.pieces)
				ids := make([]string, peers)
				before := heapBytes()
				for i := range ids {
					ids[i] = fmt.Sprintf("127.0.0.1-%d-1795370490.359", i)
					info := peerInfo(ids[i], i)
					info.HostName, info.Version = fmt.Sprintf("host-%d.example.com", i), fmt.Sprint("1.0.", 6)
					s.AddPeer(info, start)
				}
				downloadAll(b, s, ids)
				if c.state == "busy" {
					beginTransfers(s, ids)
				}
				bytes += heapBytes() - before
				runtime.KeepAlive(s)
				runtime.KeepAlive(ids)
			}
			b.ReportMetric(float64(bytes)/float64(b.N)/peers, "B/peer")
		})
	}
}

// downloadAll lets peers download all pieces as dfget does: it reports a piece as
// received, and as written a little later.
func downloadAll(b *testing.B, s *Swarm, ids []string) {
	b.Helper()
	now := start
	for range 10 * (len(s.pieces) + 1) {
		for _, id := range ids {
			offers := s.Offer(id, now)
			for _, o := range offers {
				require.NoError(b, s.SemiSuccess(id, o.Num, o.Length, now))
			}
			for _, o := range offers {
				require.NoError(b, s.Written(id, o.Num, o.Length, now))
			}
		}
		if s.Unfinished() == 0 {
			return
		}
		now = now.Add(10 * time.Millisecond)
	}
	b.Fatalf("%d peers miss pieces", s.Unfinished())
}

// beginTransfers lets each peer download as many pieces as it may from the next one,
// and write as many.
func beginTransfers(s *Swarm, ids []string) {
	for i, id := range ids {
		p, from := s.peers[id], s.peers[ids[(i+1)%len(ids)]]
		for num := range int32(s.limits.Down) {
			s.startTransfer(&transfer{num: num, to: p, from: from, length: size}, start)
			s.beginWriting(p, num, start)
		}
	}
}

// heapBytes returns the size of what is reachable in the heap.
func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
