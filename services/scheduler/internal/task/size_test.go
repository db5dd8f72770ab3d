package task

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// BenchmarkTaskSize measures the memory per running task without peers: its state
// in the heap, the pieces and the stack of its goroutine.
func BenchmarkTaskSize(b *testing.B) {
	const tasks = 1000
	for _, pieces := range []int{0, 51} {
		b.Run(fmt.Sprintf("pieces=%d", pieces), func(b *testing.B) {
			var heap, stack uint64
			for b.Loop() {
				heapBefore, stackBefore := memory()
				ctx, cancel := context.WithCancel(b.Context())
				running := startTasks(ctx, b, tasks, pieces)
				heapAfter, stackAfter := memory()
				heap += heapAfter - heapBefore
				stack += stackAfter - stackBefore
				cancel()
				running.Wait()
			}
			b.ReportMetric(float64(heap)/float64(b.N)/tasks, "heap-B/task")
			b.ReportMetric(float64(stack)/float64(b.N)/tasks, "stack-B/task")
		})
	}
}

// startTasks runs tasks until ctx ends. The group waits for that.
func startTasks(ctx context.Context, b *testing.B, tasks, pieces int) *sync.WaitGroup {
	b.Helper()
	stats, err := NewStats(prometheus.NewRegistry())
	require.NoError(b, err)
	deps := Deps{Log: zap.NewNop(), Limits: swarm.Limits{Up: 4, Down: 4}, Capacity: capacity.NewShares(), Stats: stats}
	var running sync.WaitGroup
	for i := range tasks {
		task := New(fmt.Sprintf("%064x", i), fmt.Sprintf("http://source.example.com/files/%d", i), deps)
		running.Go(func() { task.Run(ctx) })
		require.NoError(b, task.Attach(ctx, swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~id", IP: "127.0.0.1", Port: 8001}))
		require.NoError(b, task.Facts(ctx, "cdn", swarm.Facts{Length: int64(pieces) * (size - 5), PieceSize: size}))
		for num := range pieces {
			require.NoError(b, task.Landed(ctx, "cdn", int32(num), fmt.Sprintf("%032x", num), size))
		}
	}
	return &running
}

// memory returns the bytes that are reachable in the heap, and those of stacks.
func memory() (heap, stack uint64) {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc, m.StackInuse
}
