package sim

import (
	"math/rand/v2"
	"time"
)

// Config are the parameters that are the same in all scenarios.
type Config struct {
	// Seed repeats a run.
	Seed uint64
	// Step is the network's, 0 for a small part of the time of a piece.
	Step time.Duration
	// RoundTrip is that between two hosts whose links are not full.
	RoundTrip time.Duration
	// Queue is the mean of what a full link on the way adds to it, MaxQueue the most.
	Queue, MaxQueue time.Duration
	// SetUp is how many round trips pass before the first byte of a piece.
	SetUp int
	// Penalty is added to that, for what TCP does not send while it starts.
	Penalty time.Duration
	// Serve is the time of a call in the gateway and the scheduler.
	Serve time.Duration
	// Write is the mean time to write a piece.
	Write time.Duration
	// Overhead is the share of headers in what a link carries.
	Overhead float64
	// Unfair is the standard deviation of the logarithm of the weight with which a
	// transfer shares links; 0 shares them evenly.
	Unfair float64
	// Bin is the width of the bins of Result.Pieces.
	Bin time.Duration
	// A run that does not end is ended after Until, or Bounds times the bound if
	// that is later.
	Until  time.Duration
	Bounds time.Duration
}

// Defaults returns the parameters of the table. The queue's were measured on
// links that tc tbf shapes: 52–66 ms in the mean, 110 ms for one in ten.
func Defaults() Config {
	return Config{
		Seed:      1,
		RoundTrip: time.Millisecond,
		Queue:     55 * time.Millisecond, MaxQueue: 200 * time.Millisecond,
		SetUp: 3,
		Serve: time.Millisecond,
		Write: 15 * time.Millisecond,
		Bin:   50 * time.Millisecond,
		Until: 10 * time.Minute, Bounds: 50,
	}
}

// exponential draws from an exponential distribution.
func exponential(random *rand.Rand, mean time.Duration) time.Duration {
	return time.Duration(random.ExpFloat64() * float64(mean))
}
