package reconciler

import (
	"container/heap"
	"time"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// job is what is under way or owed for one task.
type job struct {
	lost, stale bool // its copy cannot be kept; its record is another one
	calling     bool // a call is under way
	queued      bool // it is in the queue
	refused     bool // no other CDN took it from this one
	attempts    int  // calls of late
	lastCall    time.Time
	notBefore   time.Time // when what it waits for is to be looked at again
	dueAt       time.Time // when to look again; the queue's entries with other times are void
}

// delayQueue is the tasks that are to be looked at later.
type delayQueue []delayedTask

type delayedTask struct {
	at time.Time
	id task.ID
}

// Len is for heap.
func (q delayQueue) Len() int { return len(q) }

// Less is for heap.
func (q delayQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

// Swap is for heap.
func (q delayQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push is for heap.
func (q *delayQueue) Push(x any) { *q = append(*q, x.(delayedTask)) } //nolint:forcetypeassert // add gives it

// Pop is for heap.
func (q *delayQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

func (q *delayQueue) add(at time.Time, id task.ID) { heap.Push(q, delayedTask{at, id}) }

// first is the time of the first one.
func (q delayQueue) first() (time.Time, bool) {
	if len(q) == 0 {
		return time.Time{}, false
	}
	return q[0].at, true
}

// popDue takes the first one out if its time has come.
func (q *delayQueue) popDue(now time.Time) (delayedTask, bool) {
	if len(*q) == 0 || (*q)[0].at.After(now) {
		return delayedTask{}, false
	}
	return heap.Pop(q).(delayedTask), true //nolint:forcetypeassert // add gave it
}
