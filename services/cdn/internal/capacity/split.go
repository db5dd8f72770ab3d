package capacity

import (
	"cmp"
	"slices"

	"github.com/supernode-ha/supernode/pkg/window"
)

// demand is the demand of a scheduler for transfers.
type demand struct {
	inFlight int  // transfers that it has assigned to peers
	limited  bool // it would assign more
}

// wanted returns the part of a window of the given size that satisfies the demand. A
// scheduler that is not limited needs one transfer more than it uses, so that it can
// start the next one.
func (d demand) wanted(size int) int {
	if d.limited {
		return size
	}
	return min(max(d.inFlight, 0), size-1) + 1
}

// split divides a window of the given size max-min fairly: a scheduler that wants less
// than an equal part gets what it wants, and the others divide the rest equally. If
// all get what they want, the rest is divided among all. Each part is at least 1, so
// the sum exceeds the window if the window is smaller than the number of schedulers.
func split(size int, demands []demand) []int {
	size = min(max(size, 1), window.Max)
	parts, order := make([]int, len(demands)), make([]int, len(demands))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(demands[a].wanted(size), demands[b].wanted(size))
	})
	left := size
	for position, i := range order {
		equal := (left + len(order) - position - 1) / (len(order) - position) // rounded up
		parts[i] = max(min(demands[i].wanted(size), equal, left), 1)
		left = max(left-parts[i], 0)
	}
	for position, i := range order {
		more := left / (len(order) - position)
		parts[i] += more
		left -= more
	}
	return parts
}
