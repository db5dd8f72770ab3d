package faults

import (
	"sync"
	"time"
)

// mostStanding is how long the machine may stand still without being an excuse.
// Whoever does not answer for about 2.5 s is replaced, and rightly so; a process
// of the cluster may have stood for longer than the one that watches.
const mostStanding = time.Second

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
				worst <- most
				return
			}
		}
	}()
	return sync.OnceValue(func() time.Duration {
		close(stop)
		return <-worst
	})
}
