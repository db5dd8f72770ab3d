package admission_test

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/services/gateway/internal/admission"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newLimiter(t *testing.T, perSecond int) (*admission.Limiter, *prometheus.Registry) {
	t.Helper()
	metrics := prometheus.NewRegistry()
	l, err := admission.New(perSecond, metrics)
	require.NoError(t, err)
	return l, metrics
}

// allowed returns how many of n registrations of an address are allowed. Each comes
// from another port.
func allowed(l *admission.Limiter, address string, n int, now time.Time) (count int) {
	for i := range n {
		if l.Allow(fmt.Sprintf("%s:%d", address, 1+i%60_000), now) {
			count++
		}
	}
	return count
}

func TestEachAddressMayRegisterABurstAndThenAtItsRate(t *testing.T) {
	l, metrics := newLimiter(t, 10)
	now := time.Unix(1_700_000_000, 0)
	require.Equal(t, 50, allowed(l, "10.0.0.1", 1000, now))
	require.Equal(t, 50, allowed(l, "10.0.0.2", 60, now), "another address has its own limit")
	require.Equal(t, 10, allowed(l, "10.0.0.1", 1000, now.Add(time.Second)), "refused registrations use nothing up")
	require.Equal(t, 50, allowed(l, "10.0.0.1", 1000, now.Add(time.Hour)))
	require.NoError(t, testutil.GatherAndCompare(metrics, strings.NewReader(`
# HELP supernode_gateway_limited_registrations_total Registrations that were refused because their client address made too many.
# TYPE supernode_gateway_limited_registrations_total counter
supernode_gateway_limited_registrations_total 2900
`)))
}

func TestThereIsNoLimitWithoutARate(t *testing.T) {
	l, _ := newLimiter(t, 0)
	require.Equal(t, 100_000, allowed(l, "10.0.0.1", 100_000, time.Unix(1_700_000_000, 0)))
}

func TestAddressesOfOneClientShareALimit(t *testing.T) {
	now := time.Unix(1_700_000_000, 0)
	for _, c := range []struct {
		a, b   string
		shared bool
	}{
		{"10.0.0.1", "[::ffff:10.0.0.1]", true},
		{"[2001:db8::1]", "[2001:db8::ffff:1]", true},
		{"[fe80::1%eth0]", "[fe80::2%eth0]", true},
		{"[2001:db8::1]", "[2001:db8:0:1::1]", false},
		{"10.0.0.1", "10.0.0.2", false},
	} {
		l, _ := newLimiter(t, 1)
		require.Equal(t, 5, allowed(l, c.a, 9, now))
		require.Equal(t, c.shared, allowed(l, c.b, 9, now) == 0, "%s and %s", c.a, c.b)
	}
}

func TestAddressThatRegisteredRecentlyIsKeptWhileOthersComeAndGo(t *testing.T) {
	l, _ := newLimiter(t, 1)
	now := time.Unix(1_700_000_000, 0)
	require.Equal(t, 5, allowed(l, "10.0.0.1", 10, now))
	for i := range 100_000 {
		l.Allow(fmt.Sprintf("11.%d.%d.%d:1", i>>16, i>>8&255, i&255), now)
		if i%1000 == 0 {
			require.False(t, l.Allow("10.0.0.1:1", now))
		}
	}
}

func TestConcurrentRegistrationsOfANewAddressShareALimit(t *testing.T) {
	l, _ := newLimiter(t, 1)
	now := time.Unix(1_700_000_000, 0)
	var count atomic.Int64
	var work sync.WaitGroup
	for range 16 {
		work.Go(func() { count.Add(int64(allowed(l, "10.0.0.1", 10, now))) })
	}
	work.Wait()
	require.EqualValues(t, 5, count.Load())
}
