package swarm

import (
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
)

// BenchmarkPeer measures the memory per peer, without pieces and with a thousand.
func BenchmarkPeer(b *testing.B) {
	const peers = 1000
	for _, pieces := range []int{0, 1000} {
		b.Run(fmt.Sprintf("pieces=%d", pieces), func(b *testing.B) {
			var bytes uint64
			for b.Loop() {
				s := emptySwarm()
				s.SetCopy(Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", Owner: true})
				require.NoError(b, s.SetFacts("cdn", Facts{Length: 1000 * (size - 5), PieceSize: size}))
				for num := range int32(1000) {
					require.NoError(b, s.Landed("cdn", num, md5Of(int(num)), size))
				}
				before := heapBytes()
				for i := range peers {
					s.AddPeer(peerInfo(fmt.Sprintf("127.0.0.1-%d-1795370490.359", i), i), start)
				}
				for num := range int32(pieces) {
					for i := range peers {
						require.NoError(b, s.Written(fmt.Sprintf("127.0.0.1-%d-1795370490.359", i), num, size, start))
					}
				}
				bytes += heapBytes() - before
				runtime.KeepAlive(s)
			}
			b.ReportMetric(float64(bytes)/float64(b.N)/peers, "B/peer")
		})
	}
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
