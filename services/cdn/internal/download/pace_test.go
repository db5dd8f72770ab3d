package download

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const mib = 1 << 20

func granted(int64) error { return nil }

func TestTransfersShareTheLimitEqually(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(mib)
		began := time.Now()
		var counted [4]int64 // by transfer
		var mu sync.Mutex    // guards counted
		var work sync.WaitGroup
		for i := range counted {
			work.Go(func() {
				_, err := p.copy(t.Context(), io.Discard, bytes.NewReader(make([]byte, 4*mib)), 4*mib, granted, func(n int64) {
					mu.Lock()
					defer mu.Unlock()
					counted[i] += n
				})
				require.NoError(t, err)
			})
		}
		time.AfterFunc(8*time.Second, func() { // half of the bytes
			mu.Lock()
			defer mu.Unlock()
			for _, n := range counted {
				require.InDelta(t, 2*mib, n, 3*maxTurn)
			}
		})
		work.Wait()
		require.InDelta(t, 16, time.Since(began).Seconds(), 0.2)
	})
}

func TestTransferReachesTheLimitOfAnySize(t *testing.T) {
	for _, bandwidth := range []int64{1, 1000, 5 * mib, 1 << 40} {
		synctest.Test(t, func(t *testing.T) {
			p := newPace(bandwidth)
			length := min(10*bandwidth, 8*mib)
			began := time.Now()
			missing, err := p.copy(t.Context(), io.Discard, bytes.NewReader(make([]byte, length)), length, granted, func(int64) {})
			require.NoError(t, err)
			require.Zero(t, missing)
			require.LessOrEqual(t, time.Since(began).Seconds(), float64(length)/float64(bandwidth)+1e-3)
		})
	}
}

func TestTransferThatWaitsForBandwidthEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPace(1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		missing, err := p.copy(ctx, io.Discard, bytes.NewReader(make([]byte, mib)), mib, granted, func(int64) {})
		require.Error(t, err)
		require.EqualValues(t, mib-minTurn, missing)
	})
}

func TestEveryChunkHasADeadlineAndEveryByteIsCounted(t *testing.T) {
	errLate := errors.New("late")
	for name, bandwidth := range map[string]int64{"limited": 1 << 40, "not limited": 0} {
		p := newPace(bandwidth)
		var sent, deadlines int64
		_, err := p.copy(t.Context(), io.Discard, bytes.NewReader(make([]byte, 3*chunk)), 3*chunk,
			func(int64) error { deadlines++; return nil }, func(n int64) { sent += n })
		require.NoError(t, err)
		require.EqualValues(t, 3*chunk, sent)
		require.GreaterOrEqual(t, deadlines, int64(2), name)
		missing, err := p.copy(t.Context(), io.Discard, bytes.NewReader(make([]byte, 2*chunk)), 2*chunk,
			func(int64) error { return errLate }, func(int64) {})
		require.ErrorIs(t, err, errLate)
		require.Positive(t, missing)
	}
}
