package download

import (
	"context"
	"sync/atomic"
	"time"
)

// quiet is how long no request may have come for peers to have understood that
// there is nothing more to get here.
const quiet = 500 * time.Millisecond

// visits knows when the last request came.
type visits struct {
	// last keeps the monotonic clock: the other may be set while peers come. It
	// is nil when nobody has come.
	last atomic.Pointer[time.Time]
}

func (v *visits) note() {
	now := time.Now()
	v.last.Store(&now)
}

// linger waits until it has been quiet, or ctx has ended; where nobody has come
// lately it does not wait.
func (v *visits) linger(ctx context.Context) {
	for {
		last := v.last.Load()
		if last == nil {
			return
		}
		left := quiet - time.Since(*last)
		if left <= 0 {
			return
		}
		timer := time.NewTimer(left)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
	}
}
