package task

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

func TestLeasesExpireWhileCallsKeepArriving(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "holder", "a", "b")
		require.NoError(t, task.Written(ctx, "holder", 0, size))
		_, err := task.Pull(ctx, Pull{PeerID: "a", Stage: Started})
		require.NoError(t, err)
		got := make(chan Answer, 1)
		go func() {
			a, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: time.Hour})
			if err == nil {
				got <- a
			}
		}()
		for range 900 { // calls for longer than a client tries, at shorter intervals than the loop's ticks
			<-time.After(100 * time.Millisecond)
			_, err := task.State(ctx)
			require.NoError(t, err)
		}
		require.Len(t, got, 1, "the piece is offered again when its lease expires")
	})
}

func TestPullThatIsCancelledBeforeItIsProcessedTakesNoSlot(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "a")
		busy := make(chan struct{})
		task.calls <- func() { <-busy }
		gone, leave := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			_, err := task.Pull(gone, Pull{PeerID: "a", Stage: Started})
			ended <- err
		}()
		synctest.Wait()
		leave()
		require.ErrorIs(t, <-ended, context.Canceled)
		close(busy)
		synctest.Wait()
		a, err := task.Pull(ctx, Pull{PeerID: "a"})
		require.NoError(t, err)
		require.Len(t, a.Offers, 1)
	})
}

func TestFirstPullMayReportPiecesThatTheTaskDoesNotHave(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "a")
		for _, p := range []Pull{
			{Stage: Started, Outcome: Written, Num: 900, Size: size},       // number out of range
			{Stage: Started, Outcome: SemiSuccess, Num: 0, Size: size * 2}, // another piece size
			{Stage: Started, Outcome: Failed, Num: 0, Size: size * 2},      // the same
			{Stage: Started, Outcome: Written, Num: 0, Size: size / 2},     // the same
			{Stage: Started, Outcome: Failed, From: "cdnnode:10.1.1.1~id"}, // no piece
		} {
			p.PeerID = "a"
			answer, err := task.Pull(ctx, p)
			require.NoError(t, err, "%+v", p)
			require.Len(t, answer.Offers, 1, "%+v", p)
		}
	})
}

func TestReportOfAPieceThatHasNotLandedIsAccepted(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		require.NoError(t, task.Attach(ctx, swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~id", Port: 8001}))
		require.NoError(t, task.Facts(ctx, "cdn", swarm.Facts{Length: 3 * (size - 5), PieceSize: size}))
		_, err := task.Register(ctx, info("a"))
		require.NoError(t, err)
		_, err = task.Pull(ctx, Pull{PeerID: "a", Outcome: SemiSuccess, Num: 2, Size: size})
		require.NoError(t, err)
		require.NoError(t, task.Written(ctx, "a", 2, size))
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(task.Written(ctx, "a", 3, size)), "the task has three pieces")
		require.NoError(t, task.Landed(ctx, "cdn", 2, fmt.Sprintf("%032x", 2), size))
		a, err := task.Pull(ctx, Pull{PeerID: "a"})
		require.NoError(t, err)
		require.Len(t, a.Offers, 1, "the piece is offered although the peer has reported it: the client reports it again")
	})
}

func TestPeersOfAnotherVersionAreExcluded(t *testing.T) {
	inTask(t, func(ctx context.Context, old *Task) {
		prepare(ctx, t, old, 1, "a", "b")
		outdated, err := old.Outdated(ctx)
		require.NoError(t, err)
		fresh := New("id", "", old.deps)
		fresh.ExcludePeers(outdated)
		inner, stop := context.WithCancel(ctx)
		go fresh.Run(inner)
		prepare(ctx, t, fresh, 1, "c")
		_, err = fresh.Register(ctx, info("a"))
		require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
		_, err = fresh.Pull(ctx, Pull{PeerID: "b"})
		require.Equal(t, rpcerr.SourceBroken, rpcerr.ReasonOf(err))
		third, err := fresh.Outdated(ctx)
		require.NoError(t, err)
		require.Len(t, third, 3, "a and b stay excluded, and c joins them")
		stop()
		<-fresh.ended
	})
}

func TestLengthIsTakenFromTheResultIfItWasUnknown(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		require.NoError(t, task.Attach(ctx, swarm.Copy{Instance: "cdn"}))
		require.NoError(t, task.Facts(ctx, "cdn", swarm.Facts{Length: -1, PieceSize: size}))
		require.NoError(t, task.Landed(ctx, "cdn", 0, fmt.Sprintf("%032x", 0), 12))
		require.NoError(t, task.Whole(ctx, "cdn", swarm.Result{MD5: "m", Length: 7, PieceCount: 1}))
		facts, err := task.Register(ctx, info("late"))
		require.NoError(t, err)
		require.EqualValues(t, 7, facts.Length)
	})
}

func TestOnlyFailedDownloadsFromACDNMakeItsCopySuspected(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "a", "b")
		_, err := task.Pull(ctx, Pull{PeerID: "a", Outcome: Failed, Num: 0, Size: size, From: "b"})
		require.NoError(t, err)
		require.NoError(t, task.Missing(ctx, "a", "b", 0, true))
		require.Empty(t, task.CopySuspected())
		require.NoError(t, task.Missing(ctx, "a", "cdnnode:127.0.0.1~id", 0, true))
		require.Len(t, task.CopySuspected(), 1)
	})
}
