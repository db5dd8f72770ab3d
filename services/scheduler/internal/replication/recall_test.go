package replication

import (
	"context"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

// fakeConn is a connection to a standby. A Recall call is answered with the parts that
// the test sends on answers, so the test controls how long the call takes.
type fakeConn struct {
	grpc.ClientConnInterface
	calls   atomic.Int64
	answers chan []*schedulerv1.TaskMemory
}

func (conn *fakeConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	conn.calls.Add(1)
	select {
	case parts := <-conn.answers:
		return &fakeRecall{ctx: ctx, parts: parts}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fakeRecall is the stream of a Recall call. At a nil part it hangs.
type fakeRecall struct {
	grpc.ClientStream
	ctx   context.Context
	parts []*schedulerv1.TaskMemory
}

func (*fakeRecall) SendMsg(any) error { return nil }
func (*fakeRecall) CloseSend() error  { return nil }

func (s *fakeRecall) RecvMsg(m any) error {
	switch {
	case len(s.parts) == 0:
		return io.EOF
	case s.parts[0] == nil:
		<-s.ctx.Done()
		return s.ctx.Err()
	}
	proto.Merge(m.(proto.Message), &schedulerv1.RecallResponse{Memory: s.parts[0]})
	s.parts = s.parts[1:]
	return nil
}

// newRecallTest returns a replicator with a fake connection to its standby, and a store.
func newRecallTest(t *testing.T) (*Replicator, *StandbyStore, *fakeConn) {
	t.Helper()
	conn := &fakeConn{answers: make(chan []*schedulerv1.TaskMemory)}
	r, err := NewReplicator(Deps{
		SelfID: "me", Members: &memberList{list: []cluster.Member{{ID: "b", Endpoint: "b:1"}}}, Log: zap.NewNop(),
		Dial:    func(string) (grpc.ClientConnInterface, error) { return conn, nil },
		Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	return r, store, conn
}

// fullUpdateOf returns a full update of a task with the given peers.
func fullUpdateOf(id string, peers ...string) *schedulerv1.TaskMemory {
	m := &schedulerv1.TaskMemory{TaskId: id, Anew: true}
	for _, p := range peers {
		m.Peers = append(m.Peers, &schedulerv1.PeerMemory{Peer: &schedulerv1.Peer{Id: p}})
	}
	return m
}

func TestRecalledStateIsKeptForRetention(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, conn := newRecallTest(t)
		go func() { conn.answers <- []*schedulerv1.TaskMemory{fullUpdateOf(idOf(1), "p")} }()
		require.NoError(t, r.Recall(t.Context(), idOf(1), store))
		require.EqualValues(t, 1, conn.calls.Load())
		state, _ := store.Get(idOf(1))
		require.Len(t, state.Update.Peers, 1)
		store.Prune(time.Now().Add(Retention))
		require.False(t, store.Has(idOf(1)), "no stream updates it")
	})
}

// Incomplete state would be replicated again as if it were complete.
func TestIncompleteRecalledStateIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, conn := newRecallTest(t)
		go func() { conn.answers <- []*schedulerv1.TaskMemory{fullUpdateOf(idOf(1), "p"), nil} }()
		require.ErrorIs(t, r.Recall(t.Context(), idOf(1), store), context.DeadlineExceeded)
		require.False(t, store.Has(idOf(1)))
		go func() { conn.answers <- []*schedulerv1.TaskMemory{fullUpdateOf(idOf(2), "p")} }()
		require.NoError(t, r.Recall(t.Context(), idOf(2), store))
		require.True(t, store.Has(idOf(2)))
	})
}

func TestRecalledStateIsChecked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, conn := newRecallTest(t)
		go func() {
			conn.answers <- []*schedulerv1.TaskMemory{fullUpdateOf(idOf(2), "p"), fullUpdateOf(idOf(1), "p")}
		}()
		require.NoError(t, r.Recall(t.Context(), idOf(1), store))
		require.True(t, store.Has(idOf(1)))
		require.False(t, store.Has(idOf(2)), "it was not recalled")
		for _, peer := range []string{"", "../p"} {
			go func() { conn.answers <- []*schedulerv1.TaskMemory{fullUpdateOf(idOf(3), "p", peer)} }()
			require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(r.Recall(t.Context(), idOf(3), store)), "%q", peer)
			require.False(t, store.Has(idOf(3)))
		}
	})
}

// A scheduler has taken the task over in the meantime and replicates it.
func TestRecalledStateDoesNotReplaceReplicatedState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, store, conn := newRecallTest(t)
		done := make(chan error, 1)
		go func() { done <- r.Recall(t.Context(), idOf(1), store) }()
		synctest.Wait()
		store.Apply("other", &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{fullUpdateOf(idOf(1), "a", "b")}}, time.Now())
		conn.answers <- []*schedulerv1.TaskMemory{fullUpdateOf(idOf(1), "a")}
		require.NoError(t, <-done)
		state, _ := store.Get(idOf(1))
		require.Len(t, state.Update.Peers, 2)
	})
}
