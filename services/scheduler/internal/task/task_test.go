package task

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const size = 4 << 20

// inTask runs f with a running task, in fake time.
func inTask(t *testing.T, f func(ctx context.Context, task *Task)) {
	t.Helper()
	inBoundedTask(t, 0, prometheus.NewRegistry(), f)
}

// inBoundedTask runs f with a running task of at most maxPeers peers, in fake time.
func inBoundedTask(t *testing.T, maxPeers int, metrics *prometheus.Registry, f func(ctx context.Context, task *Task)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		stats, err := NewStats(metrics)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		task := New("id", "http://source/file", Deps{
			Log: zap.NewNop(), Limits: swarm.Limits{Up: 5, Down: 4}, Capacity: capacity.NewShares(), Stats: stats, MaxPeers: maxPeers,
		})
		go task.Run(ctx)
		f(ctx, task)
		cancel()
		<-task.ended
	})
}

func info(id string) swarm.PeerInfo {
	return swarm.PeerInfo{ID: id, IP: "127.0.1.1", Port: 20000, Path: "/peer/file/" + id}
}

func prepare(ctx context.Context, t *testing.T, task *Task, pieces int, peers ...string) {
	t.Helper()
	require.NoError(t, task.Attach(ctx, swarm.Copy{Instance: "cdn", ID: "cdnnode:127.0.0.1~id", IP: "127.0.0.1", Port: 8001}))
	require.NoError(t, task.Facts(ctx, "cdn", swarm.Facts{Length: int64(pieces) * (size - 5), PieceSize: size}))
	for i := range pieces {
		require.NoError(t, task.Landed(ctx, "cdn", int32(i), fmt.Sprintf("%032x", i), size))
	}
	for _, id := range peers {
		_, err := task.Register(ctx, info(id))
		require.NoError(t, err)
	}
}

func TestRegisterWaitsForTheFacts(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		done := make(chan swarm.Facts, 1)
		go func() {
			facts, err := task.Register(ctx, info("a"))
			if err == nil {
				done <- facts
			}
		}()
		synctest.Wait()
		require.Empty(t, done)
		require.NoError(t, task.Attach(ctx, swarm.Copy{Instance: "cdn"}))
		require.NoError(t, task.Facts(ctx, "cdn", swarm.Facts{Length: 7, PieceSize: size}))
		require.Equal(t, swarm.Facts{Length: 7, PieceSize: size}, <-done)
	})
}

func TestRegisterReturnsTheErrorOfTheSource(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		done := make(chan error, 1)
		go func() {
			_, err := task.Register(ctx, info("a"))
			done <- err
		}()
		synctest.Wait()
		refusal := errors.New("404")
		task.Fail(ctx, refusal)
		require.ErrorIs(t, <-done, refusal)
		_, err := task.Register(ctx, info("b"))
		require.ErrorIs(t, err, refusal)
	})
}

func TestHeldPullIsAnsweredWhenAPieceLands(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0, "a")
		began := time.Now()
		got := make(chan Answer, 1)
		go func() {
			a, err := task.Pull(ctx, Pull{PeerID: "a", Stage: Started, MaxWait: 3 * time.Second})
			if err == nil {
				got <- a
			}
		}()
		<-time.After(700 * time.Millisecond)
		require.NoError(t, task.Landed(ctx, "cdn", 0, fmt.Sprintf("%032x", 0), size))
		a := <-got
		require.Len(t, a.Offers, 1)
		require.EqualValues(t, size, a.PieceSize)
		require.Equal(t, 700*time.Millisecond, time.Since(began))
	})
}

func TestHeldPullIsAnsweredEmptyAfterMaxWait(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0, "a")
		began := time.Now()
		a, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: 3 * time.Second})
		require.NoError(t, err)
		require.Empty(t, a.Offers)
		require.Nil(t, a.Result)
		require.WithinDuration(t, began.Add(3*time.Second), time.Now(), tickInterval)
	})
}

func TestPullWithoutMaxWaitIsAnsweredAtOnce(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0, "a")
		began := time.Now()
		_, err := task.Pull(ctx, Pull{PeerID: "a"})
		require.NoError(t, err)
		require.Equal(t, began, time.Now())
	})
}

func TestHeldPullIsAnsweredWhenATransferEnds(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 5, "a")
		first, err := task.Pull(ctx, Pull{PeerID: "a", Stage: Started})
		require.NoError(t, err)
		require.NotEmpty(t, first.Offers)
		got := make(chan Answer, 1)
		go func() {
			a, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: 3 * time.Second})
			if err == nil {
				got <- a
			}
		}()
		synctest.Wait()
		require.Empty(t, got)
		require.NoError(t, task.Written(ctx, "a", first.Offers[0].Num, size))
		next := (<-got).Offers
		require.NotEmpty(t, next)
		require.False(t, next[0].Repeated)
	})
}

// A client ignores an offer of a piece that it is fetching. Its next pull is sent
// the moment one of its transfers ends or fails, so it must not be held until then.
func TestPullIsAnsweredWithRepeatedOffersOnceAllThatIsLackingIsOnItsWay(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 2, "a")
		first, err := task.Pull(ctx, Pull{PeerID: "a", Stage: Started})
		require.NoError(t, err)
		require.Len(t, first.Offers, 2)
		got := make(chan Answer, 1)
		go func() {
			a, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: 3 * time.Second})
			if err == nil {
				got <- a
			}
		}()
		synctest.Wait()
		require.Empty(t, got, "more pieces may land")
		began := time.Now()
		require.NoError(t, task.Whole(ctx, "cdn", swarm.Result{MD5: "m", Length: 2 * (size - 5), PieceCount: 2}))
		requireRepeated(t, first.Offers, (<-got).Offers)
		again, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: 3 * time.Second})
		require.NoError(t, err)
		requireRepeated(t, first.Offers, again.Offers)
		require.Equal(t, began, time.Now(), "no pull was held")

		// A failure is reported by the next pull. The piece is offered anew.
		failed := first.Offers[0]
		report := Pull{PeerID: "a", Outcome: Failed, Num: failed.Num, Size: size, From: failed.SourceID, MaxWait: 3 * time.Second}
		a, err := task.Pull(ctx, report)
		require.NoError(t, err)
		require.Len(t, a.Offers, 1)
		require.Equal(t, failed.Num, a.Offers[0].Num)
		require.False(t, a.Offers[0].Repeated)
	})
}

func TestPullIsHeldWhileAPieceIsLackingThatNoSourceHasRoomFor(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 6, "a")
		require.NoError(t, task.Whole(ctx, "cdn", swarm.Result{MD5: "m", Length: 6 * (size - 5), PieceCount: 6}))
		first, err := task.Pull(ctx, Pull{PeerID: "a", Stage: Started})
		require.NoError(t, err)
		require.Less(t, len(first.Offers), 6)
		began := time.Now()
		a, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: time.Second})
		require.NoError(t, err)
		require.Empty(t, a.Offers)
		require.WithinDuration(t, began.Add(time.Second), time.Now(), tickInterval)
	})
}

func requireRepeated(t *testing.T, want, got []swarm.Offer) {
	t.Helper()
	require.Len(t, got, len(want))
	for _, o := range got {
		require.True(t, o.Repeated, "piece %d", o.Num)
	}
}

func TestPeerWithAllPiecesIsFinishedOnlyOnceTheResultIsKnown(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "a")
		_, err := task.Pull(ctx, Pull{PeerID: "a", Stage: Started})
		require.NoError(t, err)
		got := make(chan Answer, 1)
		go func() {
			a, err := task.Pull(ctx, Pull{PeerID: "a", Outcome: SemiSuccess, Num: 0, Size: size, MaxWait: 3 * time.Second})
			if err == nil {
				got <- a
			}
		}()
		synctest.Wait()
		require.Empty(t, got, "the number of pieces is not known yet")
		whole := swarm.Result{MD5: "m", Length: size - 5, PieceCount: 1}
		require.NoError(t, task.Whole(ctx, "cdn", whole))
		require.Equal(t, &whole, (<-got).Result)
	})
}

func TestNewPullEndsAnEarlierHeldPullOfThePeer(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0, "a")
		got := make(chan Answer, 1)
		go func() {
			a, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: 3 * time.Second})
			if err == nil {
				got <- a
			}
		}()
		synctest.Wait()
		_, err := task.Pull(ctx, Pull{PeerID: "a"})
		require.NoError(t, err)
		require.Empty(t, (<-got).Offers)
	})
}

// TestParallelPullsOfAPeerAreAnsweredSlowly: a client that pulls on many connections
// without pause gets few answers from each.
func TestParallelPullsOfAPeerAreAnsweredSlowly(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0, "a")
		const connections, length = 20, 10 * time.Second
		const limit = int64(connections * (length/supersededDelay + 1))
		var answers atomic.Int64
		var all sync.WaitGroup
		end := time.Now().Add(length)
		for range connections {
			all.Go(func() {
				for time.Now().Before(end) && answers.Load() <= limit {
					_, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: 3 * time.Second})
					assert.NoError(t, err)
					answers.Add(1)
				}
			})
		}
		all.Wait()
		require.LessOrEqual(t, answers.Load(), limit)
	})
}

func TestCancelledHeldPullReceivesNoOffers(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0, "a")
		gone, leave := context.WithCancel(ctx)
		ended := make(chan struct{})
		go func() {
			_, _ = task.Pull(gone, Pull{PeerID: "a", MaxWait: 3 * time.Second})
			close(ended)
		}()
		synctest.Wait()
		leave()
		<-ended
		require.NoError(t, task.Landed(ctx, "cdn", 0, fmt.Sprintf("%032x", 0), size))
		a, err := task.Pull(ctx, Pull{PeerID: "a"})
		require.NoError(t, err)
		require.Len(t, a.Offers, 1)
	})
}

// TestRepeatedPullKeepsTheDeadlineOfTheFirst simulates a client whose gateway dies or
// becomes unreachable, and that sends its pull through another gateway.
func TestRepeatedPullKeepsTheDeadlineOfTheFirst(t *testing.T) {
	const hold = 3 * time.Second
	first := Pull{PeerID: "a", Num: 0, Size: size, Outcome: SemiSuccess, MaxWait: hold}
	other := first
	other.Outcome = NoReport
	for _, tt := range []struct {
		name        string
		after, gone time.Duration // 0: the first pull is not cancelled
		again       Pull
		want        time.Duration // since the first pull
	}{
		{"the same", 2 * time.Second, 2 * time.Second, first, hold},
		{"the same, while the first is still held", 2 * time.Second, 0, first, hold},
		{"the same, after the deadline of the first", 3500 * time.Millisecond, 2 * time.Second, first, 3500 * time.Millisecond},
		{"another", 2 * time.Second, 2 * time.Second, other, 5 * time.Second},
		{"the same, long after the client's timeout", 6 * time.Second, 2 * time.Second, first, 9 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTask(t, func(ctx context.Context, task *Task) {
				prepare(ctx, t, task, 0, "a")
				began := time.Now()
				asker, leave := context.WithCancel(ctx)
				defer leave()
				go func() { _, _ = task.Pull(asker, first) }()
				if tt.gone > 0 {
					time.AfterFunc(tt.gone, leave)
				}
				<-time.After(tt.after)
				_, err := task.Pull(ctx, tt.again)
				require.NoError(t, err)
				require.WithinDuration(t, began.Add(tt.want), time.Now(), tickInterval)
			})
		})
	}
}

func TestHeldPullReturnsTheErrorOfAFailedTask(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0, "a")
		cause := errors.New("cut off")
		failed := make(chan error, 1)
		go func() {
			_, err := task.Pull(ctx, Pull{PeerID: "a", MaxWait: 3 * time.Second})
			failed <- err
		}()
		synctest.Wait()
		task.Fail(ctx, cause)
		require.ErrorIs(t, <-failed, cause)
	})
}

func TestPeerWithAllPiecesFinishesThoughTheTaskFailed(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "a")
		require.NoError(t, task.Whole(ctx, "cdn", swarm.Result{MD5: "m", Length: size - 5, PieceCount: 1}))
		task.Fail(ctx, errors.New("lost"))
		a, err := task.Pull(ctx, Pull{PeerID: "a", Outcome: Written, Num: 0, Size: size})
		require.NoError(t, err)
		require.NotNil(t, a.Result)
	})
}

func TestUnknownPeersAndPiecesAreRefused(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 1, "a")
		_, err := task.Pull(ctx, Pull{PeerID: "b"})
		require.Equal(t, rpcerr.PeerNotFound, rpcerr.ReasonOf(err))
		_, err = task.Pull(ctx, Pull{PeerID: "a", Outcome: Written, Num: 9, Size: size})
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(err))
		require.Equal(t, rpcerr.PeerNotFound, rpcerr.ReasonOf(task.Down(ctx, "b")))
		require.Equal(t, rpcerr.PeerNotFound, rpcerr.ReasonOf(task.Missing(ctx, "b", "a", 0, true)))
	})
}

func TestStoppedTaskEndsHeldAndSupersededPulls(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 0)
		inner, stop := context.WithCancel(ctx)
		other := New("other", "", task.deps)
		go other.Run(inner)
		require.NoError(t, other.Attach(ctx, swarm.Copy{Instance: "cdn"}))
		require.NoError(t, other.Facts(ctx, "cdn", swarm.Facts{Length: 1, PieceSize: size}))
		_, err := other.Register(ctx, info("a"))
		require.NoError(t, err)
		failed := make(chan error, 2)
		for range 2 { // the second one supersedes the first one
			go func() {
				_, err := other.Pull(ctx, Pull{PeerID: "a", MaxWait: time.Hour})
				failed <- err
			}()
			synctest.Wait()
		}
		start := time.Now()
		stop()
		require.Error(t, <-failed)
		require.Error(t, <-failed)
		require.Zero(t, time.Since(start))
		_, err = other.Register(ctx, info("b"))
		require.ErrorIs(t, err, errEnded)
	})
}

// As long as the facts are unknown, another scheduler may turn out to own the task
// and to have the peer. A client leaves when its peer is reported as unknown.
func TestUnknownPeerIsReportedOnlyOnceTheFactsAreKnown(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		pull := func() rpcerr.Reason {
			_, err := task.Pull(ctx, Pull{PeerID: "stranger", Stage: Started})
			require.Error(t, err)
			return rpcerr.ReasonOf(err)
		}
		require.Empty(t, pull())
		prepare(ctx, t, task, 1)
		require.Equal(t, rpcerr.PeerNotFound, pull())
	})
}

func TestEveryValidReportOfSeveralIsApplied(t *testing.T) {
	inTask(t, func(ctx context.Context, task *Task) {
		prepare(ctx, t, task, 3, "a", "b")
		failures, err := task.WrittenAll(ctx, []Report{
			{PeerID: "a", Num: 0, Size: size}, {PeerID: "stranger", Num: 0, Size: size}, {PeerID: "b", Num: 9, Size: size}, {PeerID: "b", Num: 1, Size: size},
		})
		require.NoError(t, err)
		require.NoError(t, failures[0])
		require.Equal(t, rpcerr.PeerNotFound, rpcerr.ReasonOf(failures[1]))
		require.Equal(t, rpcerr.InvalidArgument, rpcerr.ReasonOf(failures[2]))
		require.NoError(t, failures[3])
		holdings, _, err := task.Holdings(ctx, []string{"a", "b"}, 100)
		require.NoError(t, err)
		require.Len(t, holdings, 2)
	})
}
