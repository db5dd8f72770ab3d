package origin

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWhatWasNotTakenIsNotMadeUpFor(t *testing.T) {
	began := time.Now()
	w := &writer{started: began}
	const rate = 1000
	require.Equal(t, began, w.due(rate, began))
	w.sent = 500
	half := began.Add(500 * time.Millisecond)
	require.Equal(t, half, w.due(rate, began))
	require.Equal(t, half, w.due(rate, half.Add(jitter)), "a step may be a little late")
	late := half.Add(3*time.Second + jitter)
	require.Equal(t, half.Add(3*time.Second), w.due(rate, late))
	w.sent = 1500
	require.Equal(t, half.Add(4*time.Second), w.due(rate, late), "the rate is the same after it")
}
