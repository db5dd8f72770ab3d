package swarm

// fifo is a queue. An item is pushed and popped in constant time on average.
type fifo[T any] struct {
	items []T
	head  int
}

func (q *fifo[T]) push(item T) {
	if q.head > fifoSlack && q.head > len(q.items)/2 { // else a queue that is never empty grows for ever
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, item)
}

// fifoSlack is how many popped items a queue may keep the place of.
const fifoSlack = 64

func (q *fifo[T]) pop() (item T, ok bool) {
	if q.head == len(q.items) {
		return item, false
	}
	var none T
	item, q.items[q.head] = q.items[q.head], none
	if q.head++; q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return item, true
}
