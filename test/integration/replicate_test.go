package integration

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/test/origin"
)

// BenchmarkReplicate stops one of five CDNs that have two copies of a thousand
// small tasks, and tells how long it takes until every task has two whole
// copies again (ReplaceDelay included, which is 100 ms here), how many bytes
// were copied for that, and how evenly the work and the tasks are spread.
func BenchmarkReplicate(b *testing.B) {
	const tasks, size = 1000, 10_000
	for range b.N {
		b.StopTimer()
		f := newFleet(b, 2)
		for i := range 5 {
			f.launch(fmt.Sprint("cdn-", i), b.TempDir(), quick())
		}
		paths := make([]string, tasks)
		for i := range paths {
			paths[i] = fmt.Sprint("/", i)
			f.origin.Put(paths[i], origin.File{Content: origin.Content(size, uint64(i)), ETag: `"1"`})
		}
		f.seedAll(paths)
		f.untilWhole(paths)
		sent, copied := f.origin.Total().BytesSent, f.copied()

		b.StartTimer()
		f.sink("cdn-0")
		f.untilWhole(paths)
		b.StopTimer()

		require.Equal(b, sent, f.origin.Total().BytesSent)
		var sum, heaviest float64
		for id, after := range f.copied() {
			sum, heaviest = sum+after-copied[id], max(heaviest, after-copied[id])
		}
		b.ReportMetric(sum, "bytes-copied/op")
		b.ReportMetric(heaviest/(sum/4), "heaviest-copier/mean")
		b.ReportMetric(f.spread(), "heaviest-holder/mean")
		for id := range f.ships {
			f.sink(id)
		}
		f.stopDesk()
		f.stopRegistry()
		b.StartTimer()
	}
}

// seedAll seeds tasks, some at a time.
func (f *fleet) seedAll(paths []string) {
	f.Helper()
	f.claim(paths[0]) // then the desk is a member
	next := make(chan string)
	var seeds sync.WaitGroup
	for range 16 {
		seeds.Go(func() {
			for path := range next {
				f.seed(path)
			}
		})
	}
	for _, path := range paths {
		next <- path
	}
	close(next)
	seeds.Wait()
}

// untilWhole waits until all tasks have two whole copies; a task that has is
// not looked at again.
func (f *fleet) untilWhole(paths []string) {
	f.Helper()
	open := paths
	f.until(func() error {
		for len(open) > 0 {
			if err := f.whole(open[0], 2); err != nil {
				return err
			}
			open = open[1:]
		}
		return nil
	})
}

// copied is how many bytes each CDN has taken from others.
func (f *fleet) copied() map[string]float64 {
	f.Helper()
	bytes := make(map[string]float64)
	for id, s := range f.ships {
		families, err := s.metrics.Gather()
		require.NoError(f.TB, err)
		for _, family := range families {
			if family.GetName() == "supernode_cdn_copied_bytes_total" {
				bytes[id] = family.GetMetric()[0].GetCounter().GetValue()
			}
		}
	}
	return bytes
}

// spread is how many tasks the heaviest CDN has, over the mean.
func (f *fleet) spread() float64 {
	f.Helper()
	resp, err := f.registry.ListMembers(f.context(), &registryv1.ListMembersRequest{})
	require.NoError(f.TB, err)
	var sum, heaviest, members float64
	for _, load := range resp.GetLoads() {
		if f.ships[load.GetCdnId()] == nil {
			continue
		}
		has := float64(load.GetOwned() + load.GetReplicated())
		sum, heaviest, members = sum+has, max(heaviest, has), members+1
	}
	return heaviest / (sum / members)
}
