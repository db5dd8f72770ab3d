package clock

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestEventsRunInTheOrderOfTimeThenOfSetting(t *testing.T) {
	var c Clock
	var got []string
	c.After(2*time.Second, func() { got = append(got, "c") })
	c.After(time.Second, func() { got = append(got, "a") })
	c.After(time.Second, func() {
		got = append(got, "b")
		c.After(-time.Second, func() { got = append(got, "now") })
	})
	for c.Step(math.MaxInt64) {
	}
	assert.Equal(t, []string{"a", "b", "now", "c"}, got)
	assert.Equal(t, 2*time.Second, c.Now())
}

func TestStepStopsAtTheGivenTime(t *testing.T) {
	var c Clock
	c.After(time.Second, func() {})
	assert.False(t, c.Step(time.Second-1))
	assert.True(t, c.Step(time.Second))
}

func TestTimersMovedAndStoppedAtRandomRunWhenTheyAreSet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var c Clock
	want := make(map[int]time.Duration)
	got := make(map[int]time.Duration)
	timers := make([]*Timer, 500)
	for i := range timers {
		timers[i] = New(func() { got[i] = c.Now() })
	}
	for range 5000 {
		i := random.IntN(len(timers))
		if random.IntN(3) == 0 {
			c.Stop(timers[i])
			delete(want, i)
			continue
		}
		want[i] = time.Duration(random.IntN(1000))
		c.Reset(timers[i], want[i])
		require.True(t, timers[i].Set())
	}
	last := time.Duration(0)
	for c.Step(math.MaxInt64) {
		require.GreaterOrEqual(t, c.Now(), last)
		last = c.Now()
	}
	assert.Equal(t, want, got)
}
