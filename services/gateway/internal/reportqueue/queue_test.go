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
	errAway = rpcerr.New(codes.Unavailable, rpcerr.NoScheduler, "away")
	errWho  = rpcerr.New(codes.NotFound, rpcerr.PeerNotFound, "who")
)

// world is a queue in a bubble of its own time.
type world struct {
	*Queue
	t       *testing.T
	metrics *prometheus.Registry
	end     func()
}

func inQueue(t *testing.T, entries int, f func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, metrics: prometheus.NewRegistry()}
		var err error
		w.Queue, err = New(Config{Entries: entries, Keep: keep, KeepUnknown: keepUnknown, Attempt: attempt}, w.metrics)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); w.Run(ctx) }()
		w.end = func() { cancel(); <-done }
		f(w)
		w.end()
	})
}

// requireCounts wants to know what became of reports, by result.
func (w *world) requireCounts(want map[string]int) {
	w.t.Helper()
	text := "# HELP supernode_gateway_late_reports_total Reports that were taken from a client before a scheduler had them, by what became of them.\n" +
		"# TYPE supernode_gateway_late_reports_total counter\n"
	for result, n := range want {
		text += `supernode_gateway_late_reports_total{result="` + result + `"} ` + strconv.Itoa(n) + "\n"
	}
	require.NoError(w.t, testutil.GatherAndCompare(w.metrics, strings.NewReader(text), "supernode_gateway_late_reports_total"))
}

func (w *world) put(peer string, lasting bool, give func(context.Context) error) {
	w.t.Helper()
	require.True(w.t, w.Put(Report{Key: registrations.Key{Task: "t", Peer: peer}, KeepAfterDeparture: lasting, Send: give}, errmap.Retry))
}

func (w *world) putUnknown(peer string, give func(context.Context) error) {
	w.t.Helper()
	require.True(w.t, w.Put(Report{Key: registrations.Key{Task: "t", Peer: peer}, Send: give}, errmap.RetryBriefly))
}

func away(context.Context) error { return errAway }

// hang is a scheduler that does not answer.
func hang(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestReportIsGivenOnceASchedulerIsThere(t *testing.T) {
	inQueue(t, 10, func(w *world) {
		var away atomic.Bool
		var given atomic.Int32
		away.Store(true)
		for range 3 {
			w.put("a", false, func(context.Context) error {
				if away.Load() {
					return errAway
				}
				given.Add(1)
				return nil
			})
		}
		<-time.After(20 * time.Second)
		require.Equal(t, 3, w.Len())
		away.Store(false)
		<-time.After(2 * lastPause)
		require.Zero(t, w.Len())
		<-time.After(time.Minute)
		require.EqualValues(t, 3, given.Load(), "each is given once")
		w.requireCounts(map[string]int{forwarded: 3})
	})
}

func TestReportThatIsNoUseIsDropped(t *testing.T) {
	inQueue(t, 10, func(w *world) {
		w.put("wrong", false, func(context.Context) error { return rpcerr.Invalid("no such piece") })
		w.put("nobody", false, func(context.Context) error { return errWho })
		<-time.After(time.Second)
		require.Equal(t, 1, w.Len(), "a peer may be known yet")
		<-time.After(2 * time.Minute)
		require.Zero(t, w.Len())
		w.requireCounts(map[string]int{refused: 1, expired: 1})
	})
}

func TestOldestMakesRoom(t *testing.T) {
	inQueue(t, 2, func(w *world) {
		var given atomic.Value
		given.Store("")
		for _, peer := range []string{"a", "b", "c"} {
			w.put(peer, false, func(context.Context) error {
				given.Store(given.Load().(string) + peer)
				return nil
			})
		}
		require.Equal(t, 2, w.Len())
		<-time.After(time.Second)
		require.NotContains(t, given.Load(), "a")
		w.requireCounts(map[string]int{dropped: 1, forwarded: 2})
	})
}

func TestWhatIsToldOfWhoLeftIsDroppedUnlessItLasts(t *testing.T) {
	inQueue(t, 10, func(w *world) {
		w.put("a", false, away)
		w.put("a", true, away)
		w.put("b", false, away)
		w.DropPeer(registrations.Key{Task: "t", Peer: "a"})
		require.Equal(t, 2, w.Len())
	})
}

// What waited for long is not told any more, however much there is to do.
func TestNothingIsGivenThatIsTooOld(t *testing.T) {
	const many = 20 * maxConcurrent * int(keep/attempt)
	inQueue(t, many, func(w *world) {
		start := time.Now()
		var oldest atomic.Int64
		for range many {
			w.put("a", false, func(ctx context.Context) error {
				oldest.Store(max(oldest.Load(), int64(time.Since(start))))
				return hang(ctx)
			})
		}
		<-time.After(keep - time.Second)
		require.Equal(t, many, w.Len())
		<-time.After(time.Second + attempt)
		require.Zero(t, w.Len())
		<-time.After(keep)
		require.Less(t, time.Duration(oldest.Load()), keep)
		w.requireCounts(map[string]int{expired: many})
	})
}

// What is new does not wait behind those that have hung before.
func TestNewOneGoesBeforeThoseThatHang(t *testing.T) {
	const many = 5 * maxConcurrent
	inQueue(t, 2*many, func(w *world) {
		for range many {
			w.put("a", false, hang)
		}
		<-time.After(keep / 2)
		for range many {
			w.put("b", false, func(context.Context) error { return nil })
		}
		<-time.After(firstPause + attempt)
		require.Equal(t, many, w.Len())
		w.requireCounts(map[string]int{forwarded: many})
	})
}

// Whoever is not known soon will not be.
func TestReportOfAStrangerIsKeptForSeconds(t *testing.T) {
	inQueue(t, 10, func(w *world) {
		var unknownCalls, restartedCalls atomic.Int32
		w.putUnknown("nobody", func(context.Context) error { unknownCalls.Add(1); return errWho })
		var back atomic.Bool
		w.put("forgotten", false, func(context.Context) error {
			if !back.Load() {
				return errAway
			}
			restartedCalls.Add(1)
			return errWho
		})
		var known atomic.Bool
		w.putUnknown("adopted", func(context.Context) error {
			if !known.Load() {
				return errWho
			}
			return nil
		})
		<-time.After(keepUnknown / 2)
		known.Store(true)
		<-time.After(keepUnknown/2 + time.Millisecond)
		require.Equal(t, 1, w.Len())
		require.LessOrEqual(t, unknownCalls.Load(), int32(backoffSteps))
		w.requireCounts(map[string]int{expired: 1, forwarded: 1})
		back.Store(true)
		<-time.After(lastPause + keepUnknown + time.Millisecond)
		require.Zero(t, w.Len())
		require.LessOrEqual(t, restartedCalls.Load(), int32(backoffSteps))
		w.requireCounts(map[string]int{expired: 2, forwarded: 1})
	})
}

// Ids that were made up take no room from those who were there.
func TestStrangersMakeRoomFirst(t *testing.T) {
	inQueue(t, 3, func(w *world) {
		var given atomic.Int32
		count := func(context.Context) error { given.Add(1); return nil }
		w.put("a", true, count)
		for range 100 {
			w.putUnknown("nobody", away)
		}
		w.put("b", true, count)
		w.put("c", true, count)
		w.putUnknown("nobody", away)
		<-time.After(time.Second)
		require.EqualValues(t, 3, given.Load())
		w.requireCounts(map[string]int{forwarded: 3, dropped: 101})
	})
}

// One scheduler that hangs does not keep the others from hearing.
func TestSlowOneIsNotWaitedFor(t *testing.T) {
	inQueue(t, 10, func(w *world) {
		thaw, heard := make(chan struct{}), make(chan struct{})
		w.put("a", false, func(context.Context) error { <-thaw; return nil })
		w.put("b", false, func(context.Context) error { close(heard); return nil })
		<-heard
		close(thaw)
	})
}

func TestEndGivesEachOnceMoreAndDropsTheRest(t *testing.T) {
	inQueue(t, 10, func(w *world) {
		var ending atomic.Bool
		w.put("there", false, func(context.Context) error {
			if !ending.Load() {
				return errAway
			}
			return nil
		})
		w.put("away", true, hang)
		<-time.After(time.Second)
		ending.Store(true)
		w.end()
		require.Zero(t, w.Len())
		w.requireCounts(map[string]int{forwarded: 1, dropped: 1})
		require.False(t, w.Put(Report{Send: func(context.Context) error { return errors.New("never called") }}, errmap.Retry))
	})
}
