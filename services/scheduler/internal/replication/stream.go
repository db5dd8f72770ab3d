package replication

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

const (
	// gatherTime is how long changes are gathered before they are sent.
	gatherTime = 50 * time.Millisecond
	// minBackoff is the time until a call that broke is opened again. It is doubled up
	// to maxBackoff.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
)

// stream replicates tasks to one standby. It keeps a Mirror call open and opens another
// one when that breaks.
type stream struct {
	replicator *Replicator
	standby    cluster.Member
	cancel     context.CancelFunc
	wake       chan struct{} // receives a value when there is something to send

	// The fields below are the backlog. The replicator's mu guards them.

	changed  map[string]struct{} // tasks with changes that have not been sent
	deleted  map[string]struct{} // tasks that have ended
	released map[string]struct{} // tasks with another scheduler or another standby
	// attempt counts the calls that were opened and closed, round the times that
	// pending changes were taken to be sent since.
	attempt, round int
	// sending is the number of tasks that were taken in the current round. It is 0
	// once their messages have been sent.
	sending     int
	lastSeq     int64
	unconfirmed []sentMessage // the oldest first
}

// sentMessage describes a message that the standby has not confirmed.
type sentMessage struct {
	seq   int64
	round int
	tasks int
}

// position identifies a round of a stream.
type position struct{ attempt, round int }

// target returns the round in which the last of all current changes is sent. The caller
// holds mu.
func (s *stream) target() position {
	p := position{s.attempt, s.round}
	if len(s.changed)+len(s.deleted)+len(s.released) > 0 {
		p.round++
	}
	return p
}

// reached reports whether all messages up to a round are confirmed. The caller holds mu.
func (s *stream) reached(p position) bool {
	switch {
	case s.attempt != p.attempt || s.round < p.round:
		return false
	case len(s.unconfirmed) > 0 && s.unconfirmed[0].round <= p.round:
		return false
	}
	return s.sending == 0 || s.round > p.round
}

// backlog returns the number of tasks whose latest changes the standby has not
// confirmed. The caller holds mu.
func (s *stream) backlog() int {
	n := len(s.changed) + len(s.deleted) + len(s.released) + s.sending
	for _, m := range s.unconfirmed {
		n += m.tasks
	}
	return n
}

// addChanged schedules an update of a task. The caller holds mu.
func (s *stream) addChanged(id string) {
	s.changed[id] = struct{}{}
	delete(s.deleted, id)
	delete(s.released, id)
	s.wakeUp()
}

// addDeleted makes the standby delete its replica of a task. The caller holds mu.
func (s *stream) addDeleted(id string) {
	delete(s.changed, id)
	s.deleted[id] = struct{}{}
	s.wakeUp()
}

// addReleased ends the updates of a task. The standby keeps its replica for Retention.
// The caller holds mu.
func (s *stream) addReleased(id string) {
	delete(s.changed, id)
	s.released[id] = struct{}{}
	s.wakeUp()
}

func (s *stream) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run replicates tasks until ctx ends.
func (s *stream) run(ctx context.Context) {
	warned := false
	for backoff := minBackoff; ctx.Err() == nil; backoff = min(2*backoff, maxBackoff) {
		sent, err := s.replicate(ctx)
		if ctx.Err() != nil {
			return
		}
		if sent {
			backoff, warned = minBackoff, false
		}
		if !warned {
			s.replicator.Log.Info("the replication stream to the standby broke; opening it again", zap.String("scheduler_id", s.standby.ID), zap.Error(err))
			warned = true
		}
		if !sleep(ctx, backoff) {
			return
		}
	}
}

// replicate opens a call and sends all tasks of the stream in full, then their changes,
// until the call breaks. sent reports whether it has sent anything.
func (s *stream) replicate(ctx context.Context) (sent bool, err error) {
	var reader sync.WaitGroup
	defer reader.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := s.replicator.Dial(s.standby.Endpoint)
	if err != nil {
		return false, fmt.Errorf("connecting to the standby: %w", err)
	}
	rpc, err := schedulerv1.NewSchedulerServiceClient(conn).Mirror(ctx)
	if err != nil {
		return false, fmt.Errorf("opening the replication stream: %w", err)
	}
	s.reset()
	// The standby may have restarted and lost its replicas: nothing counts as
	// replicated until it is sent again, even if that takes a while.
	defer s.reset()
	broken := make(chan error, 1)
	reader.Go(func() {
		for {
			resp, err := rpc.Recv()
			if err != nil {
				broken <- err
				return
			}
			s.confirm(resp.GetSeq())
		}
	})
	for {
		select {
		case <-ctx.Done():
			return sent, ctx.Err()
		case err := <-broken:
			return sent, fmt.Errorf("receiving confirmations from the standby: %w", err)
		case <-s.wake:
		}
		if !sleep(ctx, gatherTime) {
			return sent, ctx.Err()
		}
		if err := s.sendPending(ctx, rpc.Send); err != nil {
			return sent, err
		}
		sent = true
	}
}

// reset schedules a full update of every task of the stream.
func (s *stream) reset() {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	s.lastSeq, s.unconfirmed, s.sending, s.round = 0, nil, 0, 0
	s.attempt++
	clear(s.deleted)
	clear(s.released)
	for id, item := range s.replicator.tasks {
		if item.stream == s {
			item.needsFull = true
			s.addChanged(id)
		}
	}
	s.replicator.notifyProgress() // the stream may have no tasks left
}

// pendingTask is a task whose changes are to be sent.
type pendingTask struct {
	id   string
	item *replicatedTask
	full bool
}

// takePending starts a round: it removes and returns all pending changes.
func (s *stream) takePending() (list []pendingTask, deleted, released []string) {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	for id := range s.changed {
		item := s.replicator.tasks[id]
		if item == nil || item.stream != s {
			continue
		}
		list = append(list, pendingTask{id, item, item.needsFull})
		item.needsFull = false
	}
	for id := range s.deleted {
		deleted = append(deleted, id)
	}
	for id := range s.released {
		released = append(released, id)
	}
	clear(s.changed)
	clear(s.deleted)
	clear(s.released)
	s.round++
	s.sending = len(list) + len(deleted) + len(released)
	return list, deleted, released
}

// sendPending sends all pending changes.
func (s *stream) sendPending(ctx context.Context, send func(*schedulerv1.MirrorRequest) error) error {
	list, deleted, released := s.takePending()
	defer s.finishRound()
	out := batch{stream: s, send: send}
	for ids := range slices.Chunk(deleted, maxMessageIDs) {
		if err := out.sendMessage(&schedulerv1.MirrorRequest{Gone: ids}); err != nil {
			return err
		}
	}
	for ids := range slices.Chunk(released, maxMessageIDs) {
		if err := out.sendMessage(&schedulerv1.MirrorRequest{Released: ids}); err != nil {
			return err
		}
	}
	for _, p := range list {
		parts, err := s.readChanges(ctx, p)
		if err != nil {
			return err
		}
		for _, part := range parts {
			if err := out.add(part); err != nil {
				return err
			}
		}
	}
	return out.flush()
}

// readChanges returns the changes of a task as parts. It returns none if the task has
// been assigned to another stream.
func (s *stream) readChanges(ctx context.Context, p pendingTask) ([]part, error) {
	p.item.readMu.Lock()
	defer p.item.readMu.Unlock()
	if !s.isAssigned(p) {
		return nil, nil
	}
	update, err := p.item.Changes(ctx, p.full)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, nil // the task has ended and will be removed
	case update.Full && update.Facts == nil:
		// The task may turn out to belong to another scheduler. The replica of that
		// scheduler's state must not be replaced by an empty one.
		s.requireFull(p)
		return nil, nil
	}
	return splitUpdate(p.id, header{p.item.url, p.item.source}, update), nil
}

func (s *stream) isAssigned(p pendingTask) bool {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	return s.replicator.tasks[p.id] == p.item && p.item.stream == s
}

// requireFull makes the next update of a task a full one.
func (s *stream) requireFull(p pendingTask) {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	p.item.needsFull = true
}

// nextSeq returns the sequence number of the next message, and records that a message
// with that many tasks is unconfirmed.
func (s *stream) nextSeq(tasks int) int64 {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	s.lastSeq++
	s.unconfirmed = append(s.unconfirmed, sentMessage{s.lastSeq, s.round, tasks})
	return s.lastSeq
}

// finishRound records that no message of the round is left to be sent.
func (s *stream) finishRound() {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	s.sending = 0
	s.replicator.notifyProgress()
}

// confirm records that the standby has confirmed a message and all before it.
func (s *stream) confirm(seq int64) {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	for len(s.unconfirmed) > 0 && s.unconfirmed[0].seq <= seq {
		s.unconfirmed = s.unconfirmed[1:]
	}
	s.replicator.notifyProgress()
}

// sleep waits for d. It returns false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
