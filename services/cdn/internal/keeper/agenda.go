package keeper

import (
	"container/heap"
	"time"

	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// job is what is under way or owed for one task.
type job struct {
	lost, stale bool // its copy cannot be kept; its record is another one
	busy        bool // a call is under way
	queued      bool // it is in the queue
	refused     bool // no other CDN took it from this one
	tries       int  // calls of late
	last        time.Time
	notBefore   time.Time // when what it waits for is to be looked at again
	due         time.Time // when to look again; the agenda's entries with other times are void
}

// agenda is the tasks that are to be looked at later.
type agenda []appointment

type appointment struct {
	at time.Time
	id task.ID
}

// Len is for heap.
func (a agenda) Len() int { return len(a) }

// Less is for heap.
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }

// Swap is for heap.
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }

// Push is for heap.
func (a *agenda) Push(x any) { *a = append(*a, x.(appointment)) } //nolint:forcetypeassert // add gives it

// Pop is for heap.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	*a = (*a)[:last]
	return x
}

func (a *agenda) add(at time.Time, id task.ID) { heap.Push(a, appointment{at, id}) }

// next is the time of the first one.
func (a agenda) next() (time.Time, bool) {
	if len(a) == 0 {
		return time.Time{}, false
	}
	return a[0].at, true
}

// due takes the first one out if its time has come.
func (a *agenda) due(now time.Time) (appointment, bool) {
	if len(*a) == 0 || (*a)[0].at.After(now) {
		return appointment{}, false
	}
	return heap.Pop(a).(appointment), true //nolint:forcetypeassert // add gave it
}
