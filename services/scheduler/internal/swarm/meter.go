package swarm

import (
	"math"
	"time"
)

// meter measures a rate as an exponentially decaying average.
type meter struct {
	rate float64 // bytes a second, as of at
	at   time.Time
}

// meterSpan is the time constant of the average.
const meterSpan = 1500 * time.Millisecond

// add counts bytes that arrived now.
func (m *meter) add(bytes int32, now time.Time) {
	m.rate = m.perSecond(now) + float64(bytes)/meterSpan.Seconds()
	m.at = now
}

// perSecond returns the rate in bytes a second.
func (m *meter) perSecond(now time.Time) float64 {
	if m.rate == 0 {
		return 0
	}
	return m.rate * math.Exp(-now.Sub(m.at).Seconds()/meterSpan.Seconds())
}

// smoothed is an exponentially weighted average of durations, 0 before the first.
type smoothed time.Duration

// add weighs a new value in with a quarter.
func (d *smoothed) add(value time.Duration) {
	if *d == 0 {
		*d = smoothed(value)
		return
	}
	*d += (smoothed(value) - *d) / 4
}
