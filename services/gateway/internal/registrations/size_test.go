package registrations_test

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
)

// BenchmarkEntry measures the memory per stored registration of a dfget that sends
// no headers and no certificates, which count in full.
func BenchmarkEntry(b *testing.B) {
	const entries = 1000
	var bytes uint64
	for b.Loop() {
		store, err := registrations.New(registrations.Config{
			Entries: 2 * entries, Bytes: 64 << 20, Idle: time.Hour, Linger: time.Minute,
		}, prometheus.NewRegistry())
		require.NoError(b, err)
		before := heapBytes()
		for i := range entries {
			store.Put(dfgetRegistration(i), facts)
		}
		bytes += heapBytes() - before
		runtime.KeepAlive(store)
	}
	b.ReportMetric(float64(bytes)/float64(b.N)/entries, "B/entry")
}

// dfgetRegistration returns a registration with values of the usual lengths.
func dfgetRegistration(i int) *schedulerv1.RegisterPeerRequest {
	const url = "http://source.example.com/releases/1.2.3/image-layer.tar.gz"
	id := fmt.Sprintf("127.0.0.1-%d-1795370490.359", i)
	return &schedulerv1.RegisterPeerRequest{
		TaskId: fmt.Sprintf("%064x", 7), TaskUrl: url, Source: &cdnv1.Source{Url: url},
		Peer: &schedulerv1.Peer{
			Id: id, Ip: "127.0.0.1", Port: 20000, Path: "/peer/file/image-layer.tar.gz-" + id, HostName: "host.example.com", Version: "1.0.6",
		},
	}
}

func heapBytes() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
