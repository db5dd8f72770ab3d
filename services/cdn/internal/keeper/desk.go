package keeper

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

const (
	// mostCalls is how many tasks the registry is asked about at a time, and
	// mostMoves while this instance gives away what it owns.
	mostCalls = 8
	mostMoves = 16
	// mostDelay is the longest pause between two calls about a task, and
	// calmAfter is when earlier calls count no more.
	mostDelay = 30 * time.Second
	calmAfter = 2 * mostDelay
	// settleTime is how long changes may be on their way that were made while
	// this instance was no member.
	settleTime = time.Second
)

// desk is the state of a keeper; it belongs to the goroutine of Run.
type desk struct {
	k      *Keeper
	engine Engine
	ctx    context.Context //nolint:containedctx // of the calls, which end with Run
	calls  *sync.WaitGroup

	book  *book
	crowd *crowd
	// stream numbers the streams, and complete says that this one has told all.
	stream   uint64
	complete bool
	want     int // copies of a task
	// storeless says that the last answer was that the store cannot be asked.
	storeless bool

	jobs    map[task.ID]*job
	queue   []task.ID
	agenda  agenda
	running int

	announceAt time.Time // zero for never
	leaving    bool
	handover   *handover
	// held is what was on disk when this instance began to give away what it
	// owns, nil while it does not; listing says that it is being found out.
	held    map[task.ID]task.Inventory
	listing bool
	hurry   bool // there is no time to wait for others' copies
}

// meet takes a new list of members.
func (d *desk) meet(list []cluster.Member, now time.Time) {
	wasMoving := d.moving()
	ch := d.crowd.update(list, now)
	if ch.joined {
		d.announceAt = now.Add(settleTime)
	}
	switch {
	case ch.self:
		d.checkAll(now)
	default:
		for _, cdn := range ch.of {
			for id := range d.book.named[cdn] {
				d.check(id, now)
			}
		}
	}
	if d.moving() != wasMoving {
		d.list()
	}
	if ch.more || d.moving() != wasMoving {
		d.welcome(now)
	}
	d.crowd.prune(func(cdn string) bool { return d.book.named[cdn] != nil })
	if !d.othersTake() {
		d.handover.nobodyTakes()
	}
}

// welcome looks for what somebody who takes tasks could be given.
func (d *desk) welcome(now time.Time) {
	for id, e := range d.book.entries {
		if j := d.jobs[id]; j != nil && j.refused {
			j.refused, j.tries = false, 0
		}
		if d.lacks(e) || e.owner == d.k.id && d.moving() {
			d.check(id, now)
		}
	}
}

func (d *desk) checkAll(now time.Time) {
	for id := range d.book.entries {
		d.check(id, now)
	}
	for id := range d.jobs {
		d.check(id, now)
	}
}

// check has a task looked at now or when its time comes.
func (d *desk) check(id task.ID, now time.Time) {
	j := d.jobs[id]
	if j != nil && j.busy {
		return // the answer has it checked
	}
	what, at := d.plan(id, now)
	switch {
	case what == none && j == nil:
		return
	case what == none:
		d.rest(id, j, now)
		return
	case j == nil:
		j = new(job)
		d.jobs[id] = j
	}
	if soonest := later(d.soonest(j, now), j.notBefore); soonest.After(at) {
		at = soonest
	}
	switch {
	case at.After(now):
		d.lookAt(at, id, j)
	case !j.queued:
		j.queued = true
		d.queue = append(d.queue, id)
	}
}

// rest keeps the memory of calls for a while, so that what is repaired over
// and over again is so ever more slowly.
func (d *desk) rest(id task.ID, j *job, now time.Time) {
	until := j.last.Add(calmAfter)
	switch {
	case j.queued: // its turn will come, and it is looked at then
	case j.tries > 0 && until.After(now):
		d.lookAt(until, id, j)
	default:
		delete(d.jobs, id)
	}
}

func (d *desk) lookAt(at time.Time, id task.ID, j *job) {
	if j.due.Equal(at) {
		return
	}
	j.due = at
	d.agenda.add(at, id)
}

// soonest is when the registry may be asked about the task again.
func (d *desk) soonest(j *job, now time.Time) time.Time {
	if j.tries == 0 || now.Sub(j.last) > calmAfter {
		j.tries = 0
		return now
	}
	return j.last.Add(backOff(d.k.options.RetryDelay, j.tries))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// backOff doubles from first on.
func backOff(first time.Duration, tries int) time.Duration {
	return min(first<<min(tries-1, 10), mostDelay)
}

// proceed does what is due.
func (d *desk) proceed(now time.Time) {
	for {
		a, ok := d.agenda.due(now)
		if !ok {
			break
		}
		if j := d.jobs[a.id]; j != nil && j.due.Equal(a.at) {
			j.due = time.Time{}
			d.check(a.id, now)
		}
	}
	if !d.announceAt.IsZero() && !d.announceAt.After(now) {
		d.announceAt = time.Time{}
		wake(d.k.announce)
	}
	limit := mostCalls
	if d.moving() {
		limit = mostMoves
	}
	for d.running < limit && len(d.queue) > 0 {
		id := d.queue[0]
		d.queue = d.queue[1:]
		d.begin(id, now)
	}
}

// next is when proceed has something to do.
func (d *desk) next() (time.Time, bool) {
	at, ok := d.agenda.next()
	if !d.announceAt.IsZero() && (!ok || d.announceAt.Before(at)) {
		return d.announceAt, true
	}
	return at, ok
}

// begin calls the registry about a task, if that is still to be done.
func (d *desk) begin(id task.ID, now time.Time) {
	j := d.jobs[id]
	if j == nil {
		return
	}
	j.queued = false
	what, at := d.plan(id, now)
	if what == none || at.After(now) {
		d.check(id, now)
		return
	}
	j.busy, j.last = true, now
	j.tries++
	d.running++
	c := call{what: what, id: id, stream: d.stream}
	if e := d.book.entries[id]; e != nil {
		c.epoch = e.epoch
		if what == move && d.cares(e) {
			c.own, c.look = d.held[id], d.crowd.members[d.successor(e)].Endpoint
		}
	}
	d.calls.Go(func() {
		answer := d.k.call(d.ctx, c)
		_ = d.k.send(d.ctx, func(d *desk) { d.end(c, answer) }) // when Run is over nobody asks
	})
}

// end takes an answer of the registry.
func (d *desk) end(c call, a answer) {
	now := time.Now()
	d.running--
	j := d.jobs[c.id]
	if j == nil {
		return
	}
	j.busy = false
	log := d.k.log.With(zap.String("task_id", string(c.id)), zap.Stringer("call", c.what), zap.Int64("epoch", c.epoch))
	if a.later {
		j.tries, j.notBefore = 0, now.Add(lookEvery)
	}
	if !a.later {
		d.storeless = rpcerr.ReasonOf(a.err) == rpcerr.StoreUnavailable
	}
	if a.err != nil {
		log.Debug("the registry did not do it", zap.Error(a.err))
	}
	if a.over() {
		switch c.what {
		case resign:
			j.lost = false
		case refresh:
			j.stale = false
		}
	}
	if a.record != nil && c.stream == d.stream {
		d.take(*a.record, now)
		log.Debug("the registry has answered", zap.String("owner", a.record.owner), zap.Strings("replicas", a.record.replicas))
	}
	if c.what == move && a.refused() {
		j.refused = true
		d.handover.refused(c.id)
	}
	d.check(c.id, now)
}
