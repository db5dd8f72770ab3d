// Package pace is how long those wait who make things happen: a pause that can
// be ended, a time drawn at random. What they make happen is theirs.
package pace

import (
	"context"
	"math/rand/v2"
	"time"
)

// Pause waits. It is false when the context ended before.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// Between draws a time from least up to most.
func Between(random *rand.Rand, least, most time.Duration) time.Duration {
	return least + time.Duration(random.Int64N(int64(most-least)))
}
