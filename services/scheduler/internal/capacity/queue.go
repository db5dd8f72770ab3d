package capacity

import (
	"container/list"
	"time"
)

// queue holds tasks by the time of the last thing that they did, oldest first,
// each once. All operations but wake take constant time.
type queue struct {
	order  *list.List // of entry
	places map[*Task]*list.Element
}

type entry struct {
	task *Task
	at   time.Time
}

func newQueue() queue { return queue{order: list.New(), places: make(map[*Task]*list.Element)} }

// push puts a task at the end.
func (q *queue) push(t *Task, now time.Time) {
	q.remove(t)
	q.places[t] = q.order.PushBack(entry{t, now})
}

func (q *queue) remove(t *Task) {
	if e := q.places[t]; e != nil {
		q.order.Remove(e)
		delete(q.places, t)
	}
}

// expire removes tasks that are too long in the queue.
func (q *queue) expire(now time.Time) {
	for e := q.order.Front(); e != nil; e = q.order.Front() {
		first, _ := e.Value.(entry)
		if now.Sub(first.at) < recent {
			return
		}
		q.remove(first.task)
	}
}

func (q *queue) len() int { return q.order.Len() }

// lenWith is the number of tasks when t is one of them.
func (q *queue) lenWith(t *Task) int {
	if q.places[t] != nil {
		return q.order.Len()
	}
	return q.order.Len() + 1
}

// wake signals the first n tasks.
func (q *queue) wake(n int) {
	for e := q.order.Front(); e != nil && n > 0; e, n = e.Next(), n-1 {
		first, _ := e.Value.(entry)
		select {
		case first.task.wake <- struct{}{}:
		default: // there is a signal already
		}
	}
}
