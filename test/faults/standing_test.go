package faults

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// mostStanding is how long the machine may stand still without being an excuse.
// Whoever does not answer for about 2.5 s is replaced, and rightly so; a process
// of the cluster may have stood for longer than the one that watches.
const mostStanding = time.Second

// attempt is a test that may be carried out once more.
type attempt struct {
	*testing.T
	number     int
	stoodStill func() time.Duration
	excused    bool
}

// attempts carries a test out, and again whenever it was excused.
func attempts(t *testing.T, name string, test func(*attempt)) {
	t.Helper()
	for number, excused := 1, true; excused; number++ {
		excused = false
		t.Run(name, func(t *testing.T) {
			a := &attempt{T: t, number: number, stoodStill: watchStanding()}
			defer func() {
				t.Logf("this process did not run for %s at most", a.stoodStill().Round(time.Millisecond))
				excused = a.excused
			}()
			test(a)
		})
	}
}

// within ends a test that came out of bounds. A machine that stood still
// excuses it, once: nobody may have had the time to do better.
func (a *attempt) within(err error) {
	a.Helper()
	if err != nil {
		a.end(err, a.number <= 1 && a.stoodStill() > mostStanding)
	}
}

// end ends a test for something that may be excused; then it is carried out
// once more.
func (a *attempt) end(err error, excused bool) {
	a.Helper()
	if !excused {
		require.NoError(a, err)
	}
	a.excused = true
	a.Skipf("it is carried out once more: %v", err)
}

// watchStanding watches for how long at a time this process is not let run,
// until it is asked.
func watchStanding() (stoodStill func() time.Duration) {
	const every = 100 * time.Millisecond
	stop, worst := make(chan struct{}), make(chan time.Duration)
	go func() {
		ticker, last, most := time.NewTicker(every), time.Now(), time.Duration(0)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				most, last = max(most, time.Since(last)-every), time.Now()
			case <-stop:
				worst <- max(most, time.Since(last)-every)
				return
			}
		}
	}()
	return sync.OnceValue(func() time.Duration {
		close(stop)
		return <-worst
	})
}
