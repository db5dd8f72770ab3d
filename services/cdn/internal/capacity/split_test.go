package capacity

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/window"
)

func TestSplitIsMaxMinFair(t *testing.T) {
	limited := func(n int) demand { return demand{inFlight: n, limited: true} }
	uses := func(n int) demand { return demand{inFlight: n} }
	for name, c := range map[string]struct {
		window  int
		demands []demand
		parts   []int
	}{
		"none":                           {10, nil, []int{}},
		"one, idle":                      {10, []demand{uses(0)}, []int{10}},
		"one, limited":                   {10, []demand{limited(3)}, []int{10}},
		"two limited":                    {10, []demand{limited(9), limited(1)}, []int{5, 5}},
		"a remainder":                    {11, []demand{limited(1), limited(1)}, []int{6, 5}},
		"one uses little":                {10, []demand{limited(5), uses(2)}, []int{7, 3}},
		"all use little":                 {10, []demand{uses(1), uses(2)}, []int{4, 6}},
		"one uses more than its part":    {10, []demand{uses(8), limited(1)}, []int{5, 5}},
		"more schedulers than transfers": {2, []demand{limited(1), limited(1), limited(1)}, []int{1, 1, 1}},
		"idle beside many limited":       {12, []demand{uses(0), limited(1), limited(1), limited(1)}, []int{1, 4, 4, 3}},
		"invalid numbers":                {10, []demand{uses(-5), limited(-1 << 31), uses(1 << 31)}, []int{1, 5, 4}},
		"no window":                      {0, []demand{limited(1)}, []int{1}},
		"a huge window":                  {1 << 40, []demand{limited(1)}, []int{window.Max}},
	} {
		require.Equal(t, c.parts, split(c.window, c.demands), name)
	}
}

func TestSplitGivesAllSchedulersAPartAndUsesTheWholeWindow(t *testing.T) {
	for size := 1; size < 40; size++ {
		for n := 1; n < 8; n++ {
			for seed := range 64 {
				demands := make([]demand, n)
				for i := range demands {
					demands[i] = demand{inFlight: seed * (i + 1) % (size + 3), limited: seed>>i&1 == 1}
				}
				sum := 0
				for _, part := range split(size, demands) {
					require.Positive(t, part)
					sum += part
				}
				require.Equal(t, max(size, n), sum)
			}
		}
	}
}
