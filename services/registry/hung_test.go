package registry_test

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"

	"github.com/supernode-ha/supernode/services/registry"
)

// freezableProxy starts a TCP proxy. After freeze it forwards nothing, and keeps its
// connections open.
func freezableProxy(t *testing.T, to string) (address string, freeze func()) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	stop := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex // guards conns
	var conns []net.Conn
	pump := func(dst, src net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := src.Read(buf)
			if err != nil {
				_ = dst.Close()
				return
			}
			select {
			case <-stop:
			default:
				_, _ = dst.Write(buf[:n])
			}
		}
	}
	all.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			mu.Lock()
			conns = append(conns, in, out)
			mu.Unlock()
			all.Go(func() { pump(in, out) })
			all.Go(func() { pump(out, in) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range conns {
			_ = c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return listener.Addr().String(), sync.OnceFunc(func() { close(stop) })
}

// resolveWithHungStore claims a task, makes the store hang, and resolves the task with its
// owner reported as lost. It returns the record from before, and the answer.
func resolveWithHungStore(t *testing.T, e *externalEtcd) (before *registryv1.TaskRecord, got *registryv1.ResolveTaskResponse, err error) {
	t.Helper()
	address, freeze := freezableProxy(t, e.client.Host)
	n := startNode(t, registry.Config{Endpoints: []string{address}})
	sendHeartbeats(t, n, cdn("c0"), cdn("c1"), scheduler("s"))
	watch(t, n).until("s", "c0", "c1")
	before = claim(t, n, 1, "s").GetRecord()
	freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	began := time.Now()
	got, err = n.ResolveTask(ctx, &registryv1.ResolveTaskRequest{TaskId: taskID(1), SchedulerId: "s", Last: before, LostOwner: before.GetOwner()})
	if took := time.Since(began); err == nil && took > 4*time.Second {
		err = fmt.Errorf("answered after %s", took) // perhaps at the deadline
	}
	return before, got, err
}

// A client waits for 5 s in total.
func TestResolveIsAnsweredInTimeIfTheStoreHangs(t *testing.T) {
	e := startExternalEtcd(t)
	rec, got, err := resolveWithHungStore(t, e)
	for try := 1; try < 3 && err != nil; try++ { // the machine may have paused
		rec, got, err = resolveWithHungStore(t, e)
	}
	require.NoError(t, err)
	require.True(t, got.GetUnclaimed())
	require.Equal(t, []any{rec.GetReplicas()[0], []string{rec.GetOwner()}, "s", int64(2)}, assignmentOf(got.GetRecord()))
	require.Equal(t, got.GetRecord().GetOwner(), got.GetOwner().GetId())
}
