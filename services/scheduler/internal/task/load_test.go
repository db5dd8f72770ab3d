package task

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// BenchmarkAnswerHeldPulls measures one look at a thousand held pulls for which there
// is no offer, because all sources are busy.
func BenchmarkAnswerHeldPulls(b *testing.B) {
	const crowd, pieces = 1000, 50
	stats, err := NewStats(prometheus.NewRegistry())
	require.NoError(b, err)
	task := New("id", "", Deps{Log: zap.NewNop(), Limits: swarm.Limits{Up: 5, Down: 4}, Capacity: capacity.NewShares(), Stats: stats})
	now := time.Now()
	task.swarm.SetCopy(swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~id", IP: "127.0.0.1", Port: 8001})
	require.NoError(b, task.swarm.SetFacts("cdn", swarm.Facts{Length: pieces * (size - 5), PieceSize: size}))
	for i := range int32(pieces) {
		require.NoError(b, task.swarm.Landed("cdn", i, fmt.Sprintf("%032x", i), size))
	}
	for i := range crowd {
		p := info(fmt.Sprintf("p%d", i))
		p.IP = fmt.Sprintf("127.0.%d.%d", i/250, 1+i%250)
		task.swarm.AddPeer(p, now)
		if i < 60 {
			for num := range int32(pieces) {
				require.NoError(b, task.swarm.Written(p.ID, num, size, now))
			}
		}
	}
	for i := range crowd {
		require.NoError(b, task.accept(&pull{
			Pull: Pull{PeerID: fmt.Sprintf("p%d", i), MaxWait: time.Hour}, reply: make(chan pullReply, 1),
		}))
	}
	for task.answerHeld(now) {
	}
	b.ReportMetric(float64(len(task.held)), "held")
	for b.Loop() {
		task.swarm.CapacityFreed()
		task.answerHeld(now)
	}
}
