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

// fakeConn is the connection to a standby that is asked what it knows. It answers
// once it is told what, so a test sees who waits and for how long.
type fakeConn struct {
	grpc.ClientConnInterface
	calls   atomic.Int64
	answers chan []*schedulerv1.TaskMemory
}

func (l *fakeConn) NewStream(ctx context.Context, _ *grpc.StreamDesc, _ string, _ ...grpc.CallOption) (grpc.ClientStream, error) {
	l.calls.Add(1)
	select {
	case parts := <-l.answers:
		return &fakeRecall{ctx: ctx, parts: parts}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// fakeRecall is an answer on its way. One with a nil part gets no further.
type fakeRecall struct {
	grpc.ClientStream
	ctx   context.Context
	parts []*schedulerv1.TaskMemory
}

func (*fakeRecall) SendMsg(any) error { return nil }
func (*fakeRecall) CloseSend() error  { return nil }

func (a *fakeRecall) RecvMsg(m any) error {
	switch {
	case len(a.parts) == 0:
		return io.EOF
	case a.parts[0] == nil:
		<-a.ctx.Done()
		return a.ctx.Err()
	}
	proto.Merge(m.(proto.Message), &schedulerv1.RecallResponse{Memory: a.parts[0]})
	a.parts = a.parts[1:]
	return nil
}

// newRecallTest makes a sender whose standby is at the end of a line, and a book.
func newRecallTest(t *testing.T) (*Replicator, *StandbyStore, *fakeConn) {
	t.Helper()
	l := &fakeConn{answers: make(chan []*schedulerv1.TaskMemory)}
	s, err := NewReplicator(Deps{
		SelfID: "me", Members: &memberList{list: []cluster.Member{{ID: "b", Endpoint: "b:1"}}}, Log: zap.NewNop(),
		Dial:    func(string) (grpc.ClientConnInterface, error) { return l, nil },
		Metrics: prometheus.NewRegistry(),
	})
	require.NoError(t, err)
	store, err := NewStandbyStore(prometheus.NewRegistry())
	require.NoError(t, err)
	return s, store, l
}

func memoryOf(id string, peers ...string) *schedulerv1.TaskMemory {
	m := &schedulerv1.TaskMemory{TaskId: id, Anew: true}
	for _, p := range peers {
		m.Peers = append(m.Peers, &schedulerv1.PeerMemory{Peer: &schedulerv1.Peer{Id: p}})
	}
	return m
}

// What was recalled is kept as what somebody told who tells no more.
func TestRecalledMemoryIsKeptForAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store, l := newRecallTest(t)
		go func() { l.answers <- []*schedulerv1.TaskMemory{memoryOf(idOf(1), "p")} }()
		require.NoError(t, s.Recall(t.Context(), idOf(1), store))
		require.EqualValues(t, 1, l.calls.Load())
		r, _ := store.Get(idOf(1))
		require.Len(t, r.Update.Peers, 1)
		store.Prune(time.Now().Add(Retention))
		require.False(t, store.Has(idOf(1)), "nobody tells of it any more")
	})
}

// Half of a memory would be told on as all there is.
func TestMemoryThatIsNotTheWholeIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store, l := newRecallTest(t)
		go func() { l.answers <- []*schedulerv1.TaskMemory{memoryOf(idOf(1), "p"), nil} }()
		require.ErrorIs(t, s.Recall(t.Context(), idOf(1), store), context.DeadlineExceeded)
		require.False(t, store.Has(idOf(1)))
		go func() { l.answers <- []*schedulerv1.TaskMemory{memoryOf(idOf(2), "p")} }()
		require.NoError(t, s.Recall(t.Context(), idOf(2), store))
		require.True(t, store.Has(idOf(2)))
	})
}

func TestRecalledMemoryIsCheckedAsOneThatIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store, l := newRecallTest(t)
		go func() { l.answers <- []*schedulerv1.TaskMemory{memoryOf(idOf(2), "p"), memoryOf(idOf(1), "p")} }()
		require.NoError(t, s.Recall(t.Context(), idOf(1), store))
		require.True(t, store.Has(idOf(1)))
		require.False(t, store.Has(idOf(2)), "nobody asked for it")
		for _, peer := range []string{"", "../p"} {
			go func() { l.answers <- []*schedulerv1.TaskMemory{memoryOf(idOf(3), "p", peer)} }()
			require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(s.Recall(t.Context(), idOf(3), store)), "%q", peer)
			require.False(t, store.Has(idOf(3)))
		}
	})
}

// A scheduler that took the task meanwhile tells of it.
func TestWhatIsToldCountsMoreThanWhatIsRecalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, store, l := newRecallTest(t)
		done := make(chan error, 1)
		go func() { done <- s.Recall(t.Context(), idOf(1), store) }()
		synctest.Wait()
		store.Apply("other", &schedulerv1.MirrorRequest{Tasks: []*schedulerv1.TaskMemory{memoryOf(idOf(1), "a", "b")}}, time.Now())
		l.answers <- []*schedulerv1.TaskMemory{memoryOf(idOf(1), "a")}
		require.NoError(t, <-done)
		r, _ := store.Get(idOf(1))
		require.Len(t, r.Update.Peers, 2)
	})
}
