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
type visits struct{ last atomic.Int64 }

func (v *visits) note() { v.last.Store(time.Now().UnixNano()) }

// linger waits until it has been quiet, or ctx has ended; where nobody has come
// lately it does not wait.
func (v *visits) linger(ctx context.Context) {
	for {
		left := quiet - time.Since(time.Unix(0, v.last.Load()))
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
