package reconciler

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
	// maxCalls bounds the concurrent calls to the registry, and maxMoves those while
	// this instance drains.
	maxCalls = 8
	maxMoves = 16
	// maxDelay bounds the time between two calls about a task. Calls that are older than
	// attemptsTTL do not delay the next one.
	maxDelay    = 30 * time.Second
	attemptsTTL = 2 * maxDelay
	// announceDelay is the time between joining the cluster and the announcement of the
	// copies on disk. Changes of records that were made while this instance was not a
	// member arrive within this time.
	announceDelay = time.Second
)

// state is the mutable state of a reconciler. Only the goroutine of Run accesses it.
type state struct {
	r          *Reconciler
	engine     Engine
	ctx        context.Context //nolint:containedctx // for calls, which end with Run
	background *sync.WaitGroup

	index   *index
	members *members
	// stream is the number of the current stream. complete is set once that stream has
	// sent all records.
	stream       uint64
	complete     bool
	wantedCopies int // copies per task, the owner's included
	// storeUnavailable is set if the last call failed because the registry has no store.
	storeUnavailable bool

	jobs         map[task.ID]*job
	queue        []task.ID // tasks whose calls wait for a slot
	delayed      delayQueue
	runningCalls int

	announceAt  time.Time // zero if no announcement is scheduled
	handingOver bool      // Handover was called
	handover    *handover
	// inventory holds the copies that were on disk when this instance began to drain. It
	// is nil while the instance does not drain, and while listingInventory is set.
	inventory        map[task.ID]task.Inventory
	listingInventory bool
	moveAtOnce       bool // tasks are moved without waiting for copies
}

// updateMembers applies a new list of members.
func (s *state) updateMembers(list []cluster.Member, now time.Time) {
	wasDraining := s.draining()
	ch := s.members.update(list, now)
	if ch.joined {
		s.announceAt = now.Add(announceDelay)
	}
	switch {
	case ch.self:
		s.evaluateAll(now)
	default:
		for _, cdn := range ch.ids {
			for id := range s.index.byCDN[cdn] {
				s.evaluate(id, now)
			}
		}
	}
	if s.draining() != wasDraining {
		s.listInventory()
	}
	if ch.newTarget || s.draining() != wasDraining {
		s.retryPlacement(now)
	}
	s.members.prune(func(cdn string) bool { return s.index.byCDN[cdn] != nil })
	if !s.otherCDNAvailable() {
		s.handover.noTarget()
	}
}

// retryPlacement evaluates the tasks that a CDN which accepts tasks now could get.
func (s *state) retryPlacement(now time.Time) {
	for id, e := range s.index.entries {
		if j := s.jobs[id]; j != nil && j.refused {
			j.refused, j.attempts = false, 0
		}
		if s.lacksCopies(e) || e.owner == s.r.id && s.draining() {
			s.evaluate(id, now)
		}
	}
}

func (s *state) evaluateAll(now time.Time) {
	for id := range s.index.entries {
		s.evaluate(id, now)
	}
	for id := range s.jobs {
		s.evaluate(id, now)
	}
}

// evaluate decides which call a task needs, and queues it or schedules the next
// evaluation. The comment of job shows the transitions.
func (s *state) evaluate(id task.ID, now time.Time) {
	j := s.jobs[id]
	if j != nil && j.calling {
		return // finishCall evaluates it again
	}
	what, at := s.decide(id, now)
	switch {
	case what == none && j == nil:
		return
	case what == none:
		s.retire(id, j, now)
		return
	case j == nil:
		j = new(job)
		s.jobs[id] = j
	}
	if soonest := latest(s.earliestCall(j, now), j.notBefore); soonest.After(at) {
		at = soonest
	}
	switch {
	case at.After(now):
		s.evaluateAt(at, id, j)
	case !j.queued:
		j.queued = true
		s.queue = append(s.queue, id)
	}
}

// retire removes the job of a task that needs no call, but keeps it for attemptsTTL after
// its last call, so that a task that needs repairs again and again gets them at growing
// intervals.
func (s *state) retire(id task.ID, j *job, now time.Time) {
	until := j.lastCall.Add(attemptsTTL)
	switch {
	case j.queued: // startCall evaluates it
	case j.attempts > 0 && until.After(now):
		s.evaluateAt(until, id, j)
	default:
		delete(s.jobs, id)
	}
}

// evaluateAt schedules the next evaluation of a task.
func (s *state) evaluateAt(at time.Time, id task.ID, j *job) {
	if j.dueAt.Equal(at) {
		return
	}
	j.dueAt = at
	s.delayed.add(at, id)
}

// earliestCall returns the earliest time of the next call about a task.
func (s *state) earliestCall(j *job, now time.Time) time.Time {
	if j.attempts == 0 || now.Sub(j.lastCall) > attemptsTTL {
		j.attempts = 0
		return now
	}
	return j.lastCall.Add(backOff(s.r.options.RetryDelay, j.attempts))
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// backOff returns the delay after a number of attempts: first, doubled with each attempt
// after the first one, and at most maxDelay.
func backOff(first time.Duration, attempts int) time.Duration {
	return min(first<<min(attempts-1, 10), maxDelay)
}

// runDue evaluates the tasks whose time has come, and starts queued calls up to the
// limit.
func (s *state) runDue(now time.Time) {
	for {
		next, ok := s.delayed.popDue(now)
		if !ok {
			break
		}
		if j := s.jobs[next.id]; j != nil && j.dueAt.Equal(next.at) {
			j.dueAt = time.Time{}
			s.evaluate(next.id, now)
		}
	}
	if !s.announceAt.IsZero() && !s.announceAt.After(now) {
		s.announceAt = time.Time{}
		signal(s.r.announceNow)
	}
	limit := maxCalls
	if s.draining() {
		limit = maxMoves
	}
	for s.runningCalls < limit && len(s.queue) > 0 {
		id := s.queue[0]
		s.queue = s.queue[1:]
		s.startCall(id, now)
	}
}

// nextDue returns the time at which runDue must be called again.
func (s *state) nextDue() (time.Time, bool) {
	at, ok := s.delayed.first()
	if !s.announceAt.IsZero() && (!ok || s.announceAt.Before(at)) {
		return s.announceAt, true
	}
	return at, ok
}

// startCall makes the call that a queued task needs, if it still needs one.
func (s *state) startCall(id task.ID, now time.Time) {
	j := s.jobs[id]
	if j == nil {
		return
	}
	j.queued = false
	what, at := s.decide(id, now)
	if what == none || at.After(now) {
		s.evaluate(id, now)
		return
	}
	j.calling, j.lastCall = true, now
	j.attempts++
	s.runningCalls++
	c := call{action: what, id: id, stream: s.stream}
	if e := s.index.entries[id]; e != nil {
		c.epoch = e.epoch
		if what == move && s.needsCopyBeforeMove(e) {
			c.own, c.copyAt = s.inventory[id], s.members.byID[s.successor(e)].Endpoint
		}
	}
	s.background.Go(func() {
		answer := s.r.call(s.ctx, c)
		_ = s.r.send(s.ctx, func(s *state) { s.finishCall(c, answer) }) // fails only if Run ends
	})
}

// finishCall applies the result of a call and evaluates the task again.
func (s *state) finishCall(c call, a answer) {
	now := time.Now()
	s.runningCalls--
	j := s.jobs[c.id]
	if j == nil {
		return
	}
	j.calling = false
	log := s.r.log.With(zap.String("task_id", string(c.id)), zap.Stringer("call", c.action), zap.Int64("epoch", c.epoch))
	if a.deferred {
		j.attempts, j.notBefore = 0, now.Add(copyCheckInterval)
	}
	if !a.deferred {
		s.storeUnavailable = rpcerr.ReasonOf(a.err) == rpcerr.StoreUnavailable
	}
	if a.err != nil {
		log.Debug("the call to the registry failed", zap.Error(a.err))
	}
	if a.settled() {
		switch c.action {
		case resign:
			j.lost = false
		case refresh:
			j.stale = false
		}
	}
	if a.record != nil && c.stream == s.stream {
		s.applyRecord(*a.record, now)
		log.Debug("the registry returned a record", zap.String("owner", a.record.owner), zap.Strings("replicas", a.record.replicas))
	}
	if c.action == move && a.refused() {
		j.refused = true
		s.handover.refused(c.id)
	}
	s.evaluate(c.id, now)
}
