package report

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRegistry answers UpdateTask and nothing else.
type fakeRegistry struct {
	registryv1.RegistryServiceClient
	mu       sync.Mutex
	requests []*registryv1.UpdateTaskRequest // guarded by mu
	onCall   func(n int) error               // answers the n-th call, from 1 on
}

func (r *fakeRegistry) UpdateTask(
	_ context.Context, req *registryv1.UpdateTaskRequest, _ ...grpc.CallOption,
) (*registryv1.UpdateTaskResponse, error) {
	r.mu.Lock()
	r.requests = append(r.requests, req)
	n := len(r.requests)
	r.mu.Unlock()
	if r.onCall != nil {
		if err := r.onCall(n); err != nil {
			return nil, err
		}
	}
	return &registryv1.UpdateTaskResponse{}, nil
}

func TestOnlyTheLastStateIsSentAfterAnOutage(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	client := new(fakeRegistry)
	r := New(zaptest.NewLogger(t), client, "cdn-1", func(task.ID) {})
	client.onCall = func(n int) error {
		switch n {
		case 1: // the fetch continues during this call
			r.Report(Update{ID: "a", Epoch: 1, Status: Running, Facts: &task.Facts{PieceSize: 9}})
			r.Report(Update{ID: "a", Epoch: 2, Status: Success, Facts: &task.Facts{PieceSize: 9}})
			return status.Error(codes.Unavailable, "unavailable")
		default:
			stop()
			return nil
		}
	}
	r.Report(Update{ID: "a", Epoch: 1, Status: Running})
	r.Run(ctx)
	require.Len(t, client.requests, 2)
	last := client.requests[1]
	require.Equal(t, registryv1.TaskStatus_TASK_STATUS_SUCCESS, last.GetStatus())
	require.EqualValues(t, 2, last.GetEpoch())
	require.EqualValues(t, 9, last.GetPieceSize())
}

func TestPendingUpdatesAreFlushedAtTheEnd(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	client := new(fakeRegistry)
	r := New(zaptest.NewLogger(t), client, "cdn-1", func(task.ID) {})
	for i := range 20 {
		r.Report(Update{ID: task.ID(strconv.Itoa(i)), Epoch: 1, Status: Success})
	}
	r.Run(ctx)
	require.Len(t, client.requests, 20)
}

func TestPendingUpdatesAreBounded(t *testing.T) {
	q := &queue{pending: make(map[task.ID]Update), wake: make(chan struct{}, 1)}
	for i := range maxPending {
		require.True(t, q.put(Update{ID: task.ID(strconv.Itoa(i))}))
	}
	require.False(t, q.put(Update{ID: "one more"}))
	require.True(t, q.put(Update{ID: "7", Status: Success}), "a newer state needs no room")
	for range 7 {
		_, ok := q.take()
		require.True(t, ok)
	}
	u, ok := q.take()
	require.True(t, ok)
	require.Equal(t, Update{ID: "7", Status: Success}, u)
}

func TestNoUpdateIsLostDuringALongOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		const tasks, attempts = 50, 500
		client := &fakeRegistry{onCall: func(n int) error {
			if n > attempts {
				return nil
			}
			return status.Error(codes.Unavailable, "unavailable")
		}}
		r := New(zap.NewNop(), client, "cdn-1", func(task.ID) {})
		for i := range tasks {
			r.Report(Update{ID: task.ID(strconv.Itoa(i)), Epoch: 1, Status: Success})
		}
		go r.Run(ctx)
		<-time.After(time.Hour) // on the clock of the bubble
		stop()
		synctest.Wait()
		taken := make(map[string]bool)
		for _, u := range client.requests[attempts:] {
			require.False(t, taken[u.GetTaskId()], "sent twice")
			taken[u.GetTaskId()] = true
		}
		require.Len(t, taken, tasks)
	})
}

func TestStaleEpochIsPassedToTheStaleFunction(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	client := &fakeRegistry{onCall: func(int) error {
		return rpcerr.Status(rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "another owner")).Err()
	}}
	var stale []task.ID
	r := New(zaptest.NewLogger(t), client, "cdn-1", func(id task.ID) {
		stale = append(stale, id)
		stop()
	})
	r.Report(Update{ID: "a", Epoch: 3, Status: Running})
	r.Run(ctx)
	require.Equal(t, []task.ID{"a"}, stale)
	require.Len(t, client.requests, 1)
}

func TestUpdatesInEpoch0AreNotSent(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	client := &fakeRegistry{onCall: func(int) error { stop(); return nil }}
	r := New(zaptest.NewLogger(t), client, "cdn-1", func(task.ID) {})
	r.Report(Update{ID: "a", Status: Running})
	r.Report(Update{ID: "b", Epoch: 1, Status: Running})
	r.Run(ctx)
	require.Len(t, client.requests, 1)
	require.Equal(t, "b", client.requests[0].GetTaskId())
}
