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
	// maxCalls is how many tasks the registry is asked about at a time, and
	// maxMoves while this instance gives away what it owns.
	maxCalls = 8
	maxMoves = 16
	// maxDelay is the longest pause between two calls about a task, and
	// attemptsTTL is when earlier calls count no more.
	maxDelay    = 30 * time.Second
	attemptsTTL = 2 * maxDelay
	// announceDelay is how long changes may be on their way that were made while
	// this instance was no member.
	announceDelay = time.Second
)

// state is the state of a reconciler; it belongs to the goroutine of Run.
type state struct {
	r          *Reconciler
	engine     Engine
	ctx        context.Context //nolint:containedctx // of the calls, which end with Run
	background *sync.WaitGroup

	index   *index
	members *members
	// stream numbers the streams, and complete says that this one has told all.
	stream       uint64
	complete     bool
	wantedCopies int // copies of a task
	// storeUnavailable says that the last answer was that the store cannot be asked.
	storeUnavailable bool

	jobs         map[task.ID]*job
	queue        []task.ID
	delayed      delayQueue
	runningCalls int

	announceAt  time.Time // zero for never
	handingOver bool
	handover    *handover
	// inventory is what was on disk when this instance began to give away what it
	// owns, nil while it does not; listingInventory says that it is being found out.
	inventory        map[task.ID]task.Inventory
	listingInventory bool
	moveAtOnce       bool // there is no time to wait for others' copies
}

// updateMembers takes a new list of members.
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

// retryPlacement looks for what somebody who takes tasks could be given.
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

// evaluate has a task looked at now or when its time comes.
func (s *state) evaluate(id task.ID, now time.Time) {
	j := s.jobs[id]
	if j != nil && j.calling {
		return // the answer has it checked
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

// retire keeps the memory of calls for a while, so that what is repaired over
// and over again is so ever more slowly.
func (s *state) retire(id task.ID, j *job, now time.Time) {
	until := j.lastCall.Add(attemptsTTL)
	switch {
	case j.queued: // its turn will come, and it is looked at then
	case j.attempts > 0 && until.After(now):
		s.evaluateAt(until, id, j)
	default:
		delete(s.jobs, id)
	}
}

func (s *state) evaluateAt(at time.Time, id task.ID, j *job) {
	if j.dueAt.Equal(at) {
		return
	}
	j.dueAt = at
	s.delayed.add(at, id)
}

// earliestCall is when the registry may be asked about the task again.
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

// backOff doubles from first on.
func backOff(first time.Duration, attempts int) time.Duration {
	return min(first<<min(attempts-1, 10), maxDelay)
}

// runDue does what is due.
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

// nextDue is when runDue has something to do.
func (s *state) nextDue() (time.Time, bool) {
	at, ok := s.delayed.first()
	if !s.announceAt.IsZero() && (!ok || s.announceAt.Before(at)) {
		return s.announceAt, true
	}
	return at, ok
}

// startCall calls the registry about a task, if that is still to be done.
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
		_ = s.r.send(s.ctx, func(s *state) { s.finishCall(c, answer) }) // when Run is over nobody asks
	})
}

// finishCall takes an answer of the registry.
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
		log.Debug("the registry did not do it", zap.Error(a.err))
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
		log.Debug("the registry has answered", zap.String("owner", a.record.owner), zap.Strings("replicas", a.record.replicas))
	}
	if c.action == move && a.refused() {
		j.refused = true
		s.handover.refused(c.id)
	}
	s.evaluate(c.id, now)
}
