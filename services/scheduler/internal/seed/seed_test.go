package seed

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestOnlyTheSourcesWordAndOurOwnEndATask(t *testing.T) {
	for _, reason := range []rpcerr.Reason{
		rpcerr.NotOwner, rpcerr.SourceNotFound, rpcerr.SourceAuthRequired, rpcerr.SourceUnreachable,
		rpcerr.SourceBroken, rpcerr.DiskFull, rpcerr.TaskDeleted,
	} {
		require.True(t, final(rpcerr.New(codes.Unavailable, reason, "")), reason)
	}
	for _, err := range []error{
		status.Error(codes.Unavailable, "the service stops"),
		rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "etcd is away"),
		rpcerr.New(codes.FailedPrecondition, rpcerr.NoCDN, "none"),
		rpcerr.New(codes.FailedPrecondition, rpcerr.NoScheduler, "not a member yet"),
		rpcerr.New(codes.Aborted, rpcerr.StaleEpoch, "old"),
		status.Error(codes.Canceled, ""), status.Error(codes.Internal, ""), context.DeadlineExceeded, errors.New("reset"),
	} {
		require.False(t, final(err), "%v", err)
	}
	require.True(t, final(status.Error(codes.InvalidArgument, "")))
}

// wishes are a sink's two signals.
type wishes struct {
	Sink
	woken, doubted chan struct{}
}

func (w wishes) Woken() <-chan struct{}   { return w.woken }
func (w wishes) Doubted() <-chan struct{} { return w.doubted }

// untilLost gives how long the owner is left alone after f.
func untilLost(t *testing.T, there func() bool, f func(wishes)) (took time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := wishes{woken: make(chan struct{}, 1), doubted: make(chan struct{}, 1)}
		follower := &Follower{FindCDN: func(string) (cluster.Member, bool) { return cluster.Member{}, there() }}
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		go f(w)
		follower.untilLost(ctx, "cdn", w)
		took = time.Since(began)
	})
	return took
}

func TestOwnerThatIsGoneIsReplacedWhenSomebodyComes(t *testing.T) {
	gone := func() bool { return false }
	require.Equal(t, time.Hour, untilLost(t, gone, func(wishes) {}), "nobody wants anything")
	require.Equal(t, time.Minute, untilLost(t, gone, func(w wishes) {
		<-time.After(time.Minute)
		w.woken <- struct{}{}
	}))
}

func TestOwnerThatLeavesSoonAfterSomebodyCameIsReplaced(t *testing.T) {
	var asked int
	took := untilLost(t, func() bool { asked++; return asked < 5 }, func(w wishes) { w.woken <- struct{}{} })
	require.Equal(t, 4*look, took)
}

func TestOwnerThatIsThereIsLeftAlone(t *testing.T) {
	require.Equal(t, time.Hour, untilLost(t, func() bool { return true }, func(w wishes) { w.woken <- struct{}{} }))
}

func TestOwnerThatClientsCannotFetchFromIsAskedAgain(t *testing.T) {
	there := func() bool { return true }
	require.Equal(t, time.Minute, untilLost(t, there, func(w wishes) {
		<-time.After(time.Minute)
		w.doubted <- struct{}{}
	}), "it may have come back without what it had")
	require.Equal(t, doubt, untilLost(t, there, func(w wishes) { w.doubted <- struct{}{} }), "but not all the time")
}
