// Package histogram counts durations in buckets that are about 3 % wide. Many
// goroutines may add to one histogram at the same time, without a lock.
package histogram

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Durations are counted in microseconds: each value below linear has a bucket of
// its own, each power of two above it has half as many.
const (
	linear  = 64
	perRow  = linear / 2
	buckets = 1024 // up to an hour and more
)

// Histogram counts durations. The zero value is empty.
type Histogram struct {
	counts  [buckets]atomic.Uint64
	longest atomic.Int64
}

// Add counts a duration.
func (h *Histogram) Add(d time.Duration) {
	h.counts[bucketOf(d)].Add(1)
	for {
		longest := h.longest.Load()
		if int64(d) <= longest || h.longest.CompareAndSwap(longest, int64(d)) {
			return
		}
	}
}

// Take returns what was counted since the previous call.
func (h *Histogram) Take() Snapshot {
	s := Snapshot{Longest: time.Duration(h.longest.Swap(0))}
	for i := range h.counts {
		if n := h.counts[i].Swap(0); n > 0 {
			s.counts = append(s.counts, count{bucket: i, n: n})
			s.Count += n
		}
	}
	return s
}

// Snapshot is what a histogram counted.
type Snapshot struct {
	// Count is the number of durations, Longest the longest of them.
	Count   uint64
	Longest time.Duration

	counts []count // without the empty buckets, in order
}

type count struct {
	bucket int
	n      uint64
}

// Quantile returns the duration that a share q of all does not exceed. It is
// exact to half the width of a bucket, and 0 if nothing was counted.
func (s Snapshot) Quantile(q float64) time.Duration {
	need := q * float64(s.Count)
	seen := uint64(0)
	for _, c := range s.counts {
		if seen += c.n; float64(seen) >= need {
			return min(middleOf(c.bucket), s.Longest)
		}
	}
	return s.Longest
}

func bucketOf(d time.Duration) int {
	us := uint64(max(d, 0) / time.Microsecond)
	if us < linear {
		return int(us)
	}
	shift := bits.Len64(us) - bits.Len64(linear-1)
	return min(shift*perRow+int(us>>shift), buckets-1)
}

// middleOf returns the middle of a bucket.
func middleOf(bucket int) time.Duration {
	if bucket < linear {
		return time.Duration(bucket) * time.Microsecond
	}
	shift := bucket/perRow - 1
	first := time.Duration(bucket-shift*perRow) << shift
	return (first + time.Duration(1)<<shift/2) * time.Microsecond
}
