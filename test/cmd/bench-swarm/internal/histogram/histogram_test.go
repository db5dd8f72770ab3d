package histogram

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBucketsAreInOrderAndNarrow(t *testing.T) {
	last := 0
	for us := time.Duration(0); us < 20_000_000; us += 1 + us/500 {
		d := us * time.Microsecond
		bucket := bucketOf(d)
		require.GreaterOrEqual(t, bucket, last)
		require.LessOrEqual(t, bucket, last+1)
		require.InDelta(t, float64(d), float64(middleOf(bucket)), 0.017*float64(d)+1000, "%s", d)
		last = bucket
	}
	require.Equal(t, buckets-1, bucketOf(1<<62))
	require.Zero(t, bucketOf(-1))
}

func TestQuantiles(t *testing.T) {
	var h Histogram
	require.Zero(t, h.Take().Quantile(0.5))
	for ms := range 1000 {
		h.Add(time.Duration(ms+1) * time.Millisecond)
	}
	s := h.Take()
	require.EqualValues(t, 1000, s.Count)
	require.Equal(t, time.Second, s.Longest)
	require.InDelta(t, 0.5, s.Quantile(0.5).Seconds(), 0.01)
	require.InDelta(t, 0.99, s.Quantile(0.99).Seconds(), 0.02)
	require.LessOrEqual(t, s.Quantile(1), time.Second)
	require.Zero(t, h.Take().Count, "taken is taken")
}
