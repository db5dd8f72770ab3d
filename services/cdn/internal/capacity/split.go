package capacity

import (
	"cmp"
	"slices"

	"github.com/supernode-ha/supernode/pkg/window"
)

// demand is what a scheduler wants of the window.
type demand struct {
	inFlight int  // transfers that it has handed out
	limited  bool // it would hand out more
}

// wanted returns the part of the window that satisfies a demand. A scheduler
// that is not limited gets one transfer more than it uses, to start the next.
func (d demand) wanted(whole int) int {
	if d.limited {
		return whole
	}
	return min(max(d.inFlight, 0), whole-1) + 1
}

// split divides a window max-min fairly: a scheduler that wants less than an
// equal part gets what it wants, and the others divide the rest equally. If all
// get what they want, what is left is divided among them. Each part is at least 1,
// so that the sum exceeds a window that is smaller than the number of schedulers.
func split(whole int, demands []demand) []int {
	whole = min(max(whole, 1), window.Max)
	parts, order := make([]int, len(demands)), make([]int, len(demands))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(demands[a].wanted(whole), demands[b].wanted(whole))
	})
	left := whole
	for at, i := range order {
		equal := (left + len(order) - at - 1) / (len(order) - at) // rounded up
		parts[i] = max(min(demands[i].wanted(whole), equal, left), 1)
		left = max(left-parts[i], 0)
	}
	for at, i := range order {
		more := left / (len(order) - at)
		parts[i] += more
		left -= more
	}
	return parts
}
