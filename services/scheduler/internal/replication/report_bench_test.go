package replication

import (
	"context"
	"fmt"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
	"github.com/supernode-ha/supernode/services/scheduler/internal/task"
)

// BenchmarkReports measures the cost of replication per report of a written piece, with
// and without a standby. In every round all peers report the same piece; the 50
// pieces are spread over the file. The standby runs in the same process, so its work
// is included. Every round waits for the standby, so the metric is processor time,
// not elapsed time. It must not grow with the file.
func BenchmarkReports(b *testing.B) {
	const peers, rounds, size = 200, 50, 4 << 20
	for _, pieces := range []int{50, 20_000} {
		for _, replicated := range []bool{false, true} {
			name := map[bool]string{false: "alone", true: "replicated"}[replicated]
			b.Run(fmt.Sprintf("pieces=%d/%s", pieces, name), func(b *testing.B) {
				var bytes, messages float64
				var used time.Duration
				for b.Loop() {
					b.StopTimer()
					c := newBenchTask(b, replicated, peers, pieces, size)
					bytes -= testutil.ToFloat64(c.replicator.bytes)
					messages -= testutil.ToFloat64(c.replicator.sent)
					b.StartTimer()
					began := cpuTime(b)
					for round := range rounds {
						num := int32(pieces - 1 - round*(pieces/rounds)) // the last piece first, because its bit sets are the longest
						for p := range peers {
							require.NoError(b, c.task.Written(c.ctx, fmt.Sprint(p), num, size))
						}
						c.flush(b)
					}
					used += cpuTime(b) - began
					b.StopTimer()
					bytes += testutil.ToFloat64(c.replicator.bytes)
					messages += testutil.ToFloat64(c.replicator.sent)
					c.close()
					b.StartTimer()
				}
				reports := float64(b.N) * peers * rounds
				b.ReportMetric(float64(used.Nanoseconds())/reports, "cpu-ns/report")
				b.ReportMetric(bytes/reports, "B/report")
				b.ReportMetric(messages/float64(b.N), "messages")
			})
		}
	}
}

// cpuTime returns the processor time that this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	require.NoError(b, syscall.Getrusage(syscall.RUSAGE_SELF, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchTask is a task with peers and a replicator.
type benchTask struct {
	ctx        context.Context
	task       *task.Task
	replicator *Replicator
	close      func()
}

func newBenchTask(b *testing.B, replicated bool, peers, pieces, size int) *benchTask {
	b.Helper()
	var members []cluster.Member
	if replicated {
		members = append(members, newStandby(b, "standby", "127.0.0.1:0").Member)
	}
	pool := rpcclient.NewPool("", nil)
	ctx, cancel := context.WithCancel(context.Background())
	c := &benchTask{ctx: ctx}
	var err error
	c.replicator, err = NewReplicator(Deps{
		SelfID: "me", Members: &memberList{list: members, changed: make(chan struct{})}, Dial: pool.Dial,
		Log: zap.NewNop(), Metrics: prometheus.NewRegistry(),
	})
	require.NoError(b, err)
	stats, err := task.NewStats(prometheus.NewRegistry())
	require.NoError(b, err)
	c.task = task.New(idOf(1), "u", task.Deps{
		Log: zap.NewNop(), Limits: swarm.Limits{Up: 5, Down: 4}, Capacity: capacity.NewShares(), Stats: stats, Changed: c.replicator.MarkChanged,
	})
	var work sync.WaitGroup
	work.Go(func() { c.replicator.Run(ctx) })
	work.Go(func() { c.task.Run(ctx) })
	c.close = func() {
		cancel()
		work.Wait()
		require.NoError(b, pool.Close())
	}
	require.NoError(b, c.task.Attach(ctx, swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~x", Owner: true}))
	require.NoError(b, c.task.Facts(ctx, "cdn", swarm.Facts{Length: int64(pieces) * int64(size-5), PieceSize: int32(size)}))
	for num := range int32(pieces) {
		require.NoError(b, c.task.Landed(ctx, "cdn", num, fmt.Sprintf("%032x", num), int32(size)))
	}
	for p := range peers {
		_, err := c.task.Register(ctx, swarm.PeerInfo{ID: fmt.Sprint(p), IP: "127.0.0.1", Port: 20000, Path: "/peer/file/" + fmt.Sprint(p)})
		require.NoError(b, err)
	}
	c.replicator.Add(idOf(1), "u", nil, c.task)
	c.flush(b)
	return c
}

// flush waits until the standby, if there is one, has confirmed everything.
func (c *benchTask) flush(b *testing.B) {
	b.Helper()
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	require.NoError(b, c.replicator.Flush(ctx))
}
