package download

import (
	"context"
	"sync/atomic"
	"time"
)

// idlePeriod is the time without a request after which the server assumes that peers
// have stopped sending requests to it.
const idlePeriod = 500 * time.Millisecond

// lastRequest records the time of the last request.
type lastRequest struct {
	// at is nil before the first request. It is a time.Time because that has a
	// monotonic clock: the wall clock may be set while requests arrive.
	at atomic.Pointer[time.Time]
}

func (l *lastRequest) record() {
	now := time.Now()
	l.at.Store(&now)
}

// waitIdle returns when there has been no request for idlePeriod, or when ctx ends.
func (l *lastRequest) waitIdle(ctx context.Context) {
	for {
		last := l.at.Load()
		if last == nil {
			return
		}
		left := idlePeriod - time.Since(*last)
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
