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

// startFiveCDNs starts a registry with an embedded etcd, five CDNs and a scheduler.
func startFiveCDNs(b *testing.B) *node {
	n := startNode(b, registry.Config{EmbeddedDir: b.TempDir(), LeaseTTL: time.Hour})
	for i := range benchCDNs {
		sendHeartbeats(b, n, cdn(fmt.Sprint("c", i)))
	}
	sendHeartbeats(b, n, scheduler("s"))
	return n
}

// each calls do for all tasks, benchCallers at a time.
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

// imbalance returns the highest load of a CDN divided by the mean, for owners and for all
// copies.
func imbalance(b *testing.B, n *node, cdns int) (owners, copies float64) {
	b.Helper()
	resp, err := n.ListMembers(testContext(b), &registryv1.ListMembersRequest{})
	require.NoError(b, err)
	var owned, all, mostOwned, most float64
	for _, load := range resp.GetLoads() {
		o, c := float64(load.GetOwned()), float64(load.GetOwned()+load.GetReplicated())
		owned, all, mostOwned, most = owned+o, all+c, math.Max(mostOwned, o), math.Max(most, c)
	}
	return mostOwned * float64(cdns) / owned, most * float64(cdns) / all
}

// BenchmarkPlace places 1,000 tasks with two copies each on five CDNs.
func BenchmarkPlace(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		n := startFiveCDNs(b)
		before := metric(b, n, "supernode_registry_store_writes_total", "")
		b.StartTimer()
		each(b, benchTasks, func(task int) { resolve(b, n, task, "s") })
		b.StopTimer()
		owners, copies := imbalance(b, n, benchCDNs)
		b.ReportMetric(owners, "owners-max/mean")
		b.ReportMetric(copies, "copies-max/mean")
		b.ReportMetric((metric(b, n, "supernode_registry_store_writes_total", "")-before)/benchTasks, "writes/task")
		require.NoError(b, n.stop())
		b.StartTimer()
	}
}

// BenchmarkRepair removes one of five CDNs, and repairs every record that names it.
func BenchmarkRepair(b *testing.B) {
	for b.Loop() {
		b.StopTimer()
		n := startFiveCDNs(b)
		records := make([]*registryv1.TaskRecord, benchTasks)
		each(b, benchTasks, func(task int) { records[task] = resolve(b, n, task, "s").GetRecord() })
		before := metric(b, n, "supernode_registry_store_writes_total", "")
		_, err := n.ForgetMember(testContext(b), &registryv1.ForgetMemberRequest{Role: registryv1.Role_ROLE_CDN, Id: "c0"})
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
			resp, err := n.RepairTask(testContext(b), wrong[i])
			if err != nil || len(resp.GetRecord().GetReplicas()) != 1 {
				b.Errorf("%v: %v", resp, err)
			}
		})
		b.StopTimer()
		owners, copies := imbalance(b, n, benchCDNs-1)
		b.ReportMetric(float64(len(wrong)), "records")
		b.ReportMetric(owners, "owners-max/mean")
		b.ReportMetric(copies, "copies-max/mean")
		// Two of the writes are the removal of the member and of its lease.
		b.ReportMetric((metric(b, n, "supernode_registry_store_writes_total", "")-before-2)/float64(len(wrong)), "writes/record")
		require.NoError(b, n.stop())
		b.StartTimer()
	}
}

// BenchmarkLife claims tasks and updates them until they are finished, one by one.
func BenchmarkLife(b *testing.B) {
	n := startFiveCDNs(b)
	before := metric(b, n, "supernode_registry_store_writes_total", "")
	task := 0
	for b.Loop() {
		r := resolve(b, n, task, "s").GetRecord()
		for _, status := range []registryv1.TaskStatus{registryv1.TaskStatus_TASK_STATUS_RUNNING, registryv1.TaskStatus_TASK_STATUS_SUCCESS} {
			_, err := n.UpdateTask(testContext(b), &registryv1.UpdateTaskRequest{
				TaskId: r.GetTaskId(), Owner: r.GetOwner(), Epoch: r.GetEpoch(), Status: status,
				Source: &registryv1.SourceIdentity{Length: 9}, PieceSize: 4,
			})
			require.NoError(b, err)
		}
		task++
	}
	b.ReportMetric((metric(b, n, "supernode_registry_store_writes_total", "")-before)/float64(task), "writes/task")
}

// BenchmarkResolveKnown resolves a task whose record does not change. The answer is from
// the cache.
func BenchmarkResolveKnown(b *testing.B) {
	n := startFiveCDNs(b)
	resolve(b, n, 1, "s")
	for b.Loop() {
		resolve(b, n, 1, "s")
	}
}
