package reportqueue

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/gateway/internal/errmap"
	"github.com/supernode-ha/supernode/services/gateway/internal/registrations"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The bounds of the queues.
const keep, keepUnknown, attempt = time.Minute, 10 * time.Second, 3 * time.Second

var (
	errUnavailable  = rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "unavailable")
	errPeerNotFound = rpcerr.New(codes.NotFound, rpcerr.PeerNotFound, "peer not found")
)

// testQueue is a queue that runs in a synctest bubble.
type testQueue struct {
	*Queue
	t       *testing.T
	metrics *prometheus.Registry
	end     func()
}

// withQueue runs f with a running queue of so many entries.
func withQueue(t *testing.T, entries int, f func(q *testQueue)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		q := &testQueue{t: t, metrics: prometheus.NewRegistry()}
		var err error
		q.Queue, err = New(Config{Entries: entries, Keep: keep, KeepUnknown: keepUnknown, Attempt: attempt}, q.metrics)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); q.Run(ctx) }()
		q.end = func() { cancel(); <-done }
		f(q)
		q.end()
	})
}

// requireCounts checks the numbers of reports by result.
func (q *testQueue) requireCounts(want map[string]int) {
	q.t.Helper()
	text := "# HELP supernode_gateway_late_reports_total Reports that were acknowledged to a client before a scheduler had received them, by result.\n" +
		"# TYPE supernode_gateway_late_reports_total counter\n"
	for result, n := range want {
		text += `supernode_gateway_late_reports_total{result="` + result + `"} ` + strconv.Itoa(n) + "\n"
	}
	require.NoError(q.t, testutil.GatherAndCompare(q.metrics, strings.NewReader(text), "supernode_gateway_late_reports_total"))
}

// put queues a report that a scheduler could not receive.
func (q *testQueue) put(peer string, keepAfterDeparture bool, send func(context.Context) error) {
	q.t.Helper()
	require.True(q.t, q.Put(Report{Key: registrations.Key{Task: "t", Peer: peer}, KeepAfterDeparture: keepAfterDeparture, Send: send}, errmap.Retry))
}

// putUnknown queues a report of a peer that a scheduler did not have.
func (q *testQueue) putUnknown(peer string, send func(context.Context) error) {
	q.t.Helper()
	require.True(q.t, q.Put(Report{Key: registrations.Key{Task: "t", Peer: peer}, Send: send}, errmap.RetryBriefly))
}

// unavailable is an attempt at a scheduler that is unavailable.
func unavailable(context.Context) error { return errUnavailable }

// hang is an attempt at a scheduler that does not answer.
func hang(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestReportIsSentOnceWhenASchedulerIsAvailable(t *testing.T) {
	withQueue(t, 10, func(q *testQueue) {
		var down atomic.Bool
		var sent atomic.Int32
		down.Store(true)
		for range 3 {
			q.put("a", false, func(context.Context) error {
				if down.Load() {
					return errUnavailable
				}
				sent.Add(1)
				return nil
			})
		}
		<-time.After(20 * time.Second)
		require.Equal(t, 3, q.Len())
		down.Store(false)
		<-time.After(2 * lastPause)
		require.Zero(t, q.Len())
		<-time.After(time.Minute)
		require.EqualValues(t, 3, sent.Load(), "each report is delivered once")
		q.requireCounts(map[string]int{forwarded: 3})
	})
}

func TestInvalidReportIsRefusedAndReportOfAnUnknownPeerExpires(t *testing.T) {
	withQueue(t, 10, func(q *testQueue) {
		q.put("wrong", false, func(context.Context) error { return rpcerr.Invalid("no such piece") })
		q.put("unknown", false, func(context.Context) error { return errPeerNotFound })
		<-time.After(time.Second)
		require.Equal(t, 1, q.Len(), "the peer may still be adopted")
		<-time.After(2 * time.Minute)
		require.Zero(t, q.Len())
		q.requireCounts(map[string]int{refused: 1, expired: 1})
	})
}

func TestOldestReportIsDroppedFromAFullQueue(t *testing.T) {
	withQueue(t, 2, func(q *testQueue) {
		var sent atomic.Value
		sent.Store("")
		for _, peer := range []string{"a", "b", "c"} {
			q.put(peer, false, func(context.Context) error {
				sent.Store(sent.Load().(string) + peer)
				return nil
			})
		}
		require.Equal(t, 2, q.Len())
		<-time.After(time.Second)
		require.NotContains(t, sent.Load(), "a")
		q.requireCounts(map[string]int{dropped: 1, forwarded: 2})
	})
}

func TestReportsOfADepartedPeerAreDroppedUnlessKept(t *testing.T) {
	withQueue(t, 10, func(q *testQueue) {
		q.put("a", false, unavailable)
		q.put("a", true, unavailable)
		q.put("b", false, unavailable)
		q.DropPeer(registrations.Key{Task: "t", Peer: "a"})
		require.Equal(t, 2, q.Len())
	})
}

// All attempts hang, so that reports wait longer than they are kept.
func TestExpiredReportIsNotSent(t *testing.T) {
	const many = 20 * maxConcurrent * int(keep/attempt)
	withQueue(t, many, func(q *testQueue) {
		start := time.Now()
		var oldest atomic.Int64
		for range many {
			q.put("a", false, func(ctx context.Context) error {
				oldest.Store(max(oldest.Load(), int64(time.Since(start))))
				return hang(ctx)
			})
		}
		<-time.After(keep - time.Second)
		require.Equal(t, many, q.Len())
		<-time.After(time.Second + attempt)
		require.Zero(t, q.Len())
		<-time.After(keep)
		require.Less(t, time.Duration(oldest.Load()), keep)
		q.requireCounts(map[string]int{expired: many})
	})
}

func TestNewReportIsSentBeforeRetriesThatHang(t *testing.T) {
	const many = 5 * maxConcurrent
	withQueue(t, 2*many, func(q *testQueue) {
		for range many {
			q.put("a", false, hang)
		}
		<-time.After(keep / 2)
		for range many {
			q.put("b", false, func(context.Context) error { return nil })
		}
		<-time.After(firstPause + attempt)
		require.Equal(t, many, q.Len())
		q.requireCounts(map[string]int{forwarded: many})
	})
}

func TestReportOfAnUnknownPeerIsKeptForSeconds(t *testing.T) {
	withQueue(t, 10, func(q *testQueue) {
		var unknownCalls, restartedCalls atomic.Int32
		q.putUnknown("unknown", func(context.Context) error { unknownCalls.Add(1); return errPeerNotFound })
		var up atomic.Bool
		q.put("restarted", false, func(context.Context) error {
			if !up.Load() {
				return errUnavailable
			}
			restartedCalls.Add(1)
			return errPeerNotFound
		})
		var adopted atomic.Bool
		q.putUnknown("adopted", func(context.Context) error {
			if !adopted.Load() {
				return errPeerNotFound
			}
			return nil
		})
		<-time.After(keepUnknown / 2)
		adopted.Store(true)
		<-time.After(keepUnknown/2 + time.Millisecond)
		require.Equal(t, 1, q.Len())
		require.LessOrEqual(t, unknownCalls.Load(), int32(backoffSteps))
		q.requireCounts(map[string]int{expired: 1, forwarded: 1})
		up.Store(true)
		<-time.After(lastPause + keepUnknown + time.Millisecond)
		require.Zero(t, q.Len())
		require.LessOrEqual(t, restartedCalls.Load(), int32(backoffSteps))
		q.requireCounts(map[string]int{expired: 2, forwarded: 1})
	})
}

// Reports with invented ids must not displace those of real peers.
func TestReportsOfUnknownPeersAreDroppedFirstFromAFullQueue(t *testing.T) {
	withQueue(t, 3, func(q *testQueue) {
		var sent atomic.Int32
		count := func(context.Context) error { sent.Add(1); return nil }
		q.put("a", true, count)
		for range 100 {
			q.putUnknown("unknown", unavailable)
		}
		q.put("b", true, count)
		q.put("c", true, count)
		q.putUnknown("unknown", unavailable)
		<-time.After(time.Second)
		require.EqualValues(t, 3, sent.Load())
		q.requireCounts(map[string]int{forwarded: 3, dropped: 101})
	})
}

func TestSlowSchedulerDoesNotDelayReportsToOthers(t *testing.T) {
	withQueue(t, 10, func(q *testQueue) {
		resume, sent := make(chan struct{}), make(chan struct{})
		q.put("a", false, func(context.Context) error { <-resume; return nil })
		q.put("b", false, func(context.Context) error { close(sent); return nil })
		<-sent
		close(resume)
	})
}

func TestEndOfRunSendsEachReportOnceMoreAndDropsTheRest(t *testing.T) {
	withQueue(t, 10, func(q *testQueue) {
		var ending atomic.Bool
		q.put("available", false, func(context.Context) error {
			if !ending.Load() {
				return errUnavailable
			}
			return nil
		})
		q.put("hanging", true, hang)
		<-time.After(time.Second)
		ending.Store(true)
		q.end()
		require.Zero(t, q.Len())
		q.requireCounts(map[string]int{forwarded: 1, dropped: 1})
		require.False(t, q.Put(Report{Send: func(context.Context) error { return errors.New("never called") }}, errmap.Retry))
	})
}
