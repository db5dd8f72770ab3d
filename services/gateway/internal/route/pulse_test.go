package route

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a connection on which pings are counted, and answered as ping says.
type wire struct {
	grpc.ClientConnInterface
	ping func(context.Context) error

	mu    sync.Mutex // guards pings
	pings int
}

func (w *wire) Invoke(ctx context.Context, _ string, _, _ any, _ ...grpc.CallOption) error {
	w.mu.Lock()
	w.pings++
	w.mu.Unlock()
	return w.ping(ctx)
}

func (w *wire) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pings
}

func dead(ctx context.Context) error {
	<-ctx.Done()
	return status.FromContextError(ctx.Err()).Err()
}

func newPulses(t *testing.T) *pulses {
	t.Helper()
	known, err := lru.New[string, *pulse](endpoints)
	require.NoError(t, err)
	return &pulses{known: known}
}

// watchMany runs watches for a while and gives what they ended with.
func watchMany(t *testing.T, ps *pulses, conn *wire, n int, d time.Duration) []error {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = ps.watch(ctx, "e:1", conn) })
	}
	group.Wait()
	return errs
}

// TestOnePingIsForAll bounds what held pulls cost their scheduler.
func TestOnePingIsForAll(t *testing.T) {
	for name, answer := range map[string]error{
		"serves": nil, "has no health service": status.Error(codes.Unimplemented, ""),
	} {
		synctest.Test(t, func(t *testing.T) {
			ps, conn := newPulses(t), &wire{ping: func(context.Context) error { return answer }}
			for _, err := range watchMany(t, ps, conn, 100, 4*quiet+quiet/2) {
				require.NoError(t, err, name)
			}
			require.Equal(t, 5, conn.count(), name)
			require.False(t, ps.silent("e:1"), name)
		})
	}
}

func TestSilenceIsFoundOnceForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps, conn := newPulses(t), &wire{ping: dead}
		start := time.Now()
		for _, err := range watchMany(t, ps, conn, 100, time.Hour) {
			require.ErrorIs(t, err, errSilent)
		}
		require.Equal(t, pingTimeout, time.Since(start))
		require.Equal(t, 1, conn.count())
		require.True(t, ps.silent("e:1"))
		require.False(t, ps.silent("e:2"))
		<-time.After(shunned)
		require.False(t, ps.silent("e:1"), "it may be well again")

		conn.ping = func(context.Context) error { return nil }
		require.NoError(t, watchMany(t, ps, conn, 1, quiet)[0])
		require.False(t, ps.silent("e:1"))
	})
}

// TestWhoGoesInAPingProvesNothing has a client vanish while its ping is under way.
func TestWhoGoesInAPingProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ps, conn := newPulses(t), &wire{ping: dead}
		require.NoError(t, watchMany(t, ps, conn, 3, pingTimeout/2)[0])
		require.False(t, ps.silent("e:1"))
	})
}
