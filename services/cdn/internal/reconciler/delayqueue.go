package reconciler

import (
	"container/heap"
	"time"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// job holds the state of the calls to the registry about one task. A task has no job if
// it needs no call and no earlier call delays the next one.
//
//	evaluate --no call is needed--> removed, attemptsTTL after the last call
//	evaluate --a call, but later--> delayed --dueAt--> evaluate
//	evaluate --a call now---------> queued --startCall--> calling --finishCall--> evaluate
type job struct {
	lost      bool // the local copy cannot be kept
	stale     bool // the known record is outdated
	calling   bool // a call is under way
	queued    bool // the task is in state.queue
	refused   bool // the last move found no CDN that accepts the task
	attempts  int  // number of calls, without those before the last pause of attemptsTTL
	lastCall  time.Time
	notBefore time.Time // the earliest time of the next check of another CDN's copy
	dueAt     time.Time // the time of the next evaluation; delay queue entries with another time are void
}

// delayQueue is a heap of the tasks to evaluate later, ordered by time.
type delayQueue []delayedTask

type delayedTask struct {
	at time.Time
	id task.ID
}

// Len implements heap.Interface.
func (q delayQueue) Len() int { return len(q) }

// Less implements heap.Interface.
func (q delayQueue) Less(i, j int) bool { return q[i].at.Before(q[j].at) }

// Swap implements heap.Interface.
func (q delayQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *delayQueue) Push(x any) { *q = append(*q, x.(delayedTask)) } //nolint:forcetypeassert // add pushes a delayedTask

// Pop implements heap.Interface.
func (q *delayQueue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

func (q *delayQueue) add(at time.Time, id task.ID) { heap.Push(q, delayedTask{at, id}) }

// first returns the earliest time in the queue.
func (q delayQueue) first() (time.Time, bool) {
	if len(q) == 0 {
		return time.Time{}, false
	}
	return q[0].at, true
}

// popDue removes and returns the first task if its time has come.
func (q *delayQueue) popDue(now time.Time) (delayedTask, bool) {
	if len(*q) == 0 || (*q)[0].at.After(now) {
		return delayedTask{}, false
	}
	return heap.Pop(q).(delayedTask), true //nolint:forcetypeassert // add pushed a delayedTask
}
