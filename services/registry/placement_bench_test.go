package registry_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/services/registry"
)

const (
	benchTasks   = 1000
	benchCDNs    = 5
	benchCallers = 16
)

// fiveCDNs is a registry on an embedded etcd with its members.
func fiveCDNs(b *testing.B) *node {
	n := startNode(b, registry.Config{EmbeddedDir: b.TempDir(), LeaseTTL: time.Hour})
	for i := range benchCDNs {
		beat(b, n, cdn(fmt.Sprint("c", i)))
	}
	beat(b, n, scheduler("s"))
	return n
}

// each calls do for all tasks, a few at a time.
func each(b *testing.B, tasks int, do func(task int)) {
	b.Helper()
	next := make(chan int)
	var all sync.WaitGroup
	for range benchCallers {
		all.Go(func() {
			for task := range next {
				do(task)
			}
		})
	}
	for task := range tasks {
		next <- task
	}
	close(next)
	all.Wait()
}

// spread is the heaviest CDN over the mean, of owners and of all copies.
func spread(b *testing.B, n *node, cdns int) (owners, copies float64) {
	b.Helper()
	resp, err := n.ListMembers(bounded(b), &registryv1.ListMembersRequest{})
	require.NoError(b, err)
	var owned, all, mostOwned, most float64
	for _, load := range resp.GetLoads() {
		o, c := float64(load.GetOwned()), float64(load.GetOwned()+load.GetReplicated())
		owned, all, mostOwned, most = owned+o, all+c, math.Max(mostOwned, o), math.Max(most, c)
	}
	return mostOwned * float64(cdns) / owned, most * float64(cdns) / all
}

// BenchmarkPlace places 1,000 tasks over five CDNs, two copies each.
func BenchmarkPlace(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		n := fiveCDNs(b)
		before := metric(b, n, "supernode_registry_store_writes_total", "")
		b.StartTimer()
		each(b, benchTasks, func(task int) { resolve(b, n, task, "s") })
		b.StopTimer()
		owners, copies := spread(b, n, benchCDNs)
		b.ReportMetric(owners, "owners-max/mean")
		b.ReportMetric(copies, "copies-max/mean")
		b.ReportMetric((metric(b, n, "supernode_registry_store_writes_total", "")-before)/benchTasks, "writes/task")
		require.NoError(b, n.stop())
		b.StartTimer()
	}
}

// BenchmarkRepair has one of five CDNs forgotten, and every record that named
// it made right by the first of those that it names.
func BenchmarkRepair(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		n := fiveCDNs(b)
		records := make([]*registryv1.TaskRecord, benchTasks)
		each(b, benchTasks, func(task int) { records[task] = resolve(b, n, task, "s").GetRecord() })
		before := metric(b, n, "supernode_registry_store_writes_total", "")
		_, err := n.ForgetMember(bounded(b), &registryv1.ForgetMemberRequest{Role: registryv1.Role_ROLE_CDN, Id: "c0"})
		require.NoError(b, err)
		var wrong []*registryv1.RepairTaskRequest
		for _, r := range records {
			switch {
			case r.GetOwner() == "c0":
				wrong = append(wrong, &registryv1.RepairTaskRequest{TaskId: r.GetTaskId(), CdnId: r.GetReplicas()[0]})
			case r.GetReplicas()[0] == "c0":
				wrong = append(wrong, &registryv1.RepairTaskRequest{TaskId: r.GetTaskId(), CdnId: r.GetOwner()})
			}
		}
		b.StartTimer()
		each(b, len(wrong), func(i int) {
			resp, err := n.RepairTask(bounded(b), wrong[i])
			if err != nil || len(resp.GetRecord().GetReplicas()) != 1 {
				b.Errorf("%v: %v", resp, err)
			}
		})
		b.StopTimer()
		owners, copies := spread(b, n, benchCDNs-1)
		b.ReportMetric(float64(len(wrong)), "records")
		b.ReportMetric(owners, "owners-max/mean")
		b.ReportMetric(copies, "copies-max/mean")
		// The member's removal and the end of its lease are two of them.
		b.ReportMetric((metric(b, n, "supernode_registry_store_writes_total", "")-before-2)/float64(len(wrong)), "writes/record")
		require.NoError(b, n.stop())
		b.StartTimer()
	}
}

// BenchmarkLife is a task from its claim to its end, one after the other.
func BenchmarkLife(b *testing.B) {
	n := fiveCDNs(b)
	before := metric(b, n, "supernode_registry_store_writes_total", "")
	task := 0
	for b.Loop() {
		r := resolve(b, n, task, "s").GetRecord()
		for _, status := range []registryv1.TaskStatus{registryv1.TaskStatus_TASK_STATUS_RUNNING, registryv1.TaskStatus_TASK_STATUS_SUCCESS} {
			_, err := n.UpdateTask(bounded(b), &registryv1.UpdateTaskRequest{
				TaskId: r.GetTaskId(), Owner: r.GetOwner(), Epoch: r.GetEpoch(), Status: status,
				Source: &registryv1.SourceIdentity{Length: 9}, PieceSize: 4,
			})
			require.NoError(b, err)
		}
		task++
	}
	b.ReportMetric((metric(b, n, "supernode_registry_store_writes_total", "")-before)/float64(task), "writes/task")
}

// BenchmarkResolveKnown is the answer for a record that is right: from memory.
func BenchmarkResolveKnown(b *testing.B) {
	n := fiveCDNs(b)
	resolve(b, n, 1, "s")
	for b.Loop() {
		resolve(b, n, 1, "s")
	}
}
