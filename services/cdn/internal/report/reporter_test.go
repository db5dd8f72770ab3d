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

// registry answers UpdateTask and nothing else.
type registry struct {
	registryv1.RegistryServiceClient
	mu     sync.Mutex
	told   []*registryv1.UpdateTaskRequest // guarded by mu
	before func(n int) error               // of the nth call
}

func (r *registry) UpdateTask(
	_ context.Context, req *registryv1.UpdateTaskRequest, _ ...grpc.CallOption,
) (*registryv1.UpdateTaskResponse, error) {
	r.mu.Lock()
	r.told = append(r.told, req)
	n := len(r.told)
	r.mu.Unlock()
	if r.before != nil {
		if err := r.before(n); err != nil {
			return nil, err
		}
	}
	return &registryv1.UpdateTaskResponse{}, nil
}

func TestLastStateWinsWhileTheRegistryIsAway(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	client := new(registry)
	r := New(zaptest.NewLogger(t), client, "cdn-1", func(task.ID) {})
	client.before = func(n int) error {
		switch n {
		case 1: // while this is under way, the fetch goes on
			r.Report(Update{ID: "a", Epoch: 1, Status: Running, Facts: &task.Facts{PieceSize: 9}})
			r.Report(Update{ID: "a", Epoch: 2, Status: Success, Facts: &task.Facts{PieceSize: 9}})
			return status.Error(codes.Unavailable, "away")
		default:
			stop()
			return nil
		}
	}
	r.Report(Update{ID: "a", Epoch: 1, Status: Running})
	r.Run(ctx)
	require.Len(t, client.told, 2)
	last := client.told[1]
	require.Equal(t, registryv1.TaskStatus_TASK_STATUS_SUCCESS, last.GetStatus())
	require.EqualValues(t, 2, last.GetEpoch())
	require.EqualValues(t, 9, last.GetPieceSize())
}

func TestWhatIsLeftIsToldAtTheEnd(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	stop()
	client := new(registry)
	r := New(zaptest.NewLogger(t), client, "cdn-1", func(task.ID) {})
	for i := range 20 {
		r.Report(Update{ID: task.ID(strconv.Itoa(i)), Epoch: 1, Status: Success})
	}
	r.Run(ctx)
	require.Len(t, client.told, 20)
}

func TestPendingIsBounded(t *testing.T) {
	l := &lane{pending: make(map[task.ID]Update), wake: make(chan struct{}, 1)}
	for i := range mostPending {
		require.True(t, l.put(Update{ID: task.ID(strconv.Itoa(i))}))
	}
	require.False(t, l.put(Update{ID: "one more"}))
	require.True(t, l.put(Update{ID: "7", Status: Success}), "a newer state needs no room")
	for range 7 {
		_, ok := l.take()
		require.True(t, ok)
	}
	u, ok := l.take()
	require.True(t, ok)
	require.Equal(t, Update{ID: "7", Status: Success}, u)
}

func TestNothingIsLostHoweverLongTheRegistryIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		const tasks, tries = 50, 500
		client := &registry{before: func(n int) error {
			if n > tries {
				return nil
			}
			return status.Error(codes.Unavailable, "away")
		}}
		r := New(zap.NewNop(), client, "cdn-1", func(task.ID) {})
		for i := range tasks {
			r.Report(Update{ID: task.ID(strconv.Itoa(i)), Epoch: 1, Status: Success})
		}
		go r.Run(ctx)
		<-time.After(time.Hour) // by the bubble's clock
		stop()
		synctest.Wait()
		taken := make(map[string]bool)
		for _, u := range client.told[tries:] {
			require.False(t, taken[u.GetTaskId()], "told twice")
			taken[u.GetTaskId()] = true
		}
		require.Len(t, taken, tasks)
	})
}

func TestRefusalAsksForTheRecord(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	client := &registry{before: func(int) error {
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
	require.Len(t, client.told, 1)
}

func TestWhatIsUnclaimedIsNotTold(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	client := &registry{before: func(int) error { stop(); return nil }}
	r := New(zaptest.NewLogger(t), client, "cdn-1", func(task.ID) {})
	r.Report(Update{ID: "a", Status: Running})
	r.Report(Update{ID: "b", Epoch: 1, Status: Running})
	r.Run(ctx)
	require.Len(t, client.told, 1)
	require.Equal(t, "b", client.told[0].GetTaskId())
}
