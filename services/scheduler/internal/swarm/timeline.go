package swarm

import (
	"container/heap"
	"time"
)

// timed is what a timeline holds. Each item is in at most one timeline.
type timed interface {
	// time returns when the item is due.
	time() time.Time
	// index returns where the timeline stores the item's place in it.
	index() *int
}

// timeline holds items by the time at which they are due, the earliest first. Add,
// remove and fix take O(log n).
type timeline[T timed] struct{ items timeHeap[T] }

// outside is the index of an item that is in no timeline.
const outside = -1

func (l *timeline[T]) len() int { return len(l.items) }

// first returns the item that is due first. The timeline must not be empty.
func (l *timeline[T]) first() T { return l.items[0] }

func (l *timeline[T]) add(item T) { heap.Push(&l.items, item) }

// fix moves an item whose time has changed.
func (l *timeline[T]) fix(item T) { heap.Fix(&l.items, *item.index()) }

func (l *timeline[T]) remove(item T) {
	heap.Remove(&l.items, *item.index())
	*item.index() = outside
}

// timeHeap implements heap.Interface.
type timeHeap[T timed] []T

func (h timeHeap[T]) Len() int           { return len(h) }
func (h timeHeap[T]) Less(i, j int) bool { return h[i].time().Before(h[j].time()) }
func (h timeHeap[T]) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	*h[i].index(), *h[j].index() = i, j
}

func (h *timeHeap[T]) Push(x any) {
	item := x.(T) //nolint:errcheck // only timeline pushes
	*item.index() = len(*h)
	*h = append(*h, item)
}

func (h *timeHeap[T]) Pop() any {
	last := len(*h) - 1
	item := (*h)[last]
	var none T
	(*h)[last] = none
	*h = (*h)[:last]
	return item
}
