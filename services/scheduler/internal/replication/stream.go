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
	// gatherTime is how long changes are gathered before they are told.
	gatherTime = 50 * time.Millisecond
	// maxMessageBytes and maxMessageIDs are what one message holds at most, if it is
	// more than one part.
	maxMessageBytes = 1 << 20
	maxMessageIDs   = 10_000
	// A stream that broke is opened anew after minBackoff, doubled up to maxBackoff.
	minBackoff = 100 * time.Millisecond
	maxBackoff = 3 * time.Second
)

// stream is the way to one standby. What it holds of tasks is guarded by the
// sender's mu.
type stream struct {
	replicator *Replicator
	standby    cluster.Member
	cancel     context.CancelFunc

	changed  map[string]struct{} // tasks that have something to tell
	deleted  map[string]struct{} // tasks that are no more
	released map[string]struct{} // tasks that are another's, or told to another
	// streams counts those that were opened, rounds the times that it told what
	// there was to tell, on this one.
	attempt, round int
	// telling are the tasks that are being told, untaken those of every message
	// that is not confirmed yet.
	sending     int
	lastSeq     int64
	unconfirmed []sentMessage
	wake        chan struct{}
}

// sentMessage is a message that is not confirmed, its round and the number of its
// tasks.
type sentMessage struct {
	seq   int64
	round int
	tasks int
}

// position is what has to be told for a moment's all to be known.
type position struct{ attempt, round int }

// target is the mark of now. The caller holds mu, as for settled.
func (s *stream) target() position {
	p := position{s.attempt, s.round}
	if len(s.changed)+len(s.deleted)+len(s.released) > 0 {
		p.round++
	}
	return p
}

// reached tells whether all that a mark is of has been confirmed.
func (s *stream) reached(p position) bool {
	switch {
	case s.attempt != p.attempt || s.round < p.round:
		return false
	case len(s.unconfirmed) > 0 && s.unconfirmed[0].round <= p.round:
		return false
	}
	return s.sending == 0 || s.round > p.round
}

// backlog is how many tasks the standby does not know the latest of. The caller
// holds mu.
func (s *stream) backlog() int {
	n := len(s.changed) + len(s.deleted) + len(s.released) + s.sending
	for _, m := range s.unconfirmed {
		n += m.tasks
	}
	return n
}

// addChanged, addDeleted and addReleased are called with mu held.
func (s *stream) addChanged(id string) {
	s.changed[id] = struct{}{}
	delete(s.deleted, id)
	delete(s.released, id)
	s.wakeUp()
}

func (s *stream) addDeleted(id string) {
	delete(s.changed, id)
	s.deleted[id] = struct{}{}
	s.wakeUp()
}

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
			s.replicator.Log.Info("a standby is not reached; trying on", zap.String("scheduler_id", s.standby.ID), zap.Error(err))
			warned = true
		}
		if !sleep(ctx, backoff) {
			return
		}
	}
}

// replicate tells all tasks of the lane anew, and then what changes, until the
// stream breaks.
func (s *stream) replicate(ctx context.Context) (sent bool, err error) {
	var reader sync.WaitGroup
	defer reader.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := s.replicator.Dial(s.standby.Endpoint)
	if err != nil {
		return false, fmt.Errorf("reaching a standby: %w", err)
	}
	rpc, err := schedulerv1.NewSchedulerServiceClient(conn).Mirror(ctx)
	if err != nil {
		return false, fmt.Errorf("reaching a standby: %w", err)
	}
	s.reset()
	// What the standby had may be lost with the stream: nothing counts as known
	// to it until it is told again, though that may take a while.
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
			return sent, fmt.Errorf("telling a standby: %w", err)
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

// reset marks all tasks of the lane as unknown to the standby.
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
	s.replicator.notifyProgress() // there may be nothing left to tell here
}

// pendingTask is one task that is told of.
type pendingTask struct {
	id   string
	item *replicatedTask
	full bool
}

// takePending takes what is to be told.
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

// sendPending sends what is to be told.
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

// readChanges asks a task what changed, if the task is this lane's still.
func (s *stream) readChanges(ctx context.Context, p pendingTask) ([]*schedulerv1.TaskMemory, error) {
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
		return nil, nil // it has ended, and will be dropped
	case update.Full && update.Facts == nil:
		// It may turn out to be another's, whose memory this must not replace.
		s.requireFull(p)
		return nil, nil
	}
	list := splitUpdate(p.id, update)
	if update.Full {
		list[0].TaskUrl, list[0].Source = p.item.url, p.item.source
	}
	return list, nil
}

func (s *stream) isAssigned(p pendingTask) bool {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	return s.replicator.tasks[p.id] == p.item && p.item.stream == s
}

// requireFull has the standby told everything with the next change.
func (s *stream) requireFull(p pendingTask) {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	p.item.needsFull = true
}

func (s *stream) nextSeq(tasks int) int64 {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	s.lastSeq++
	s.unconfirmed = append(s.unconfirmed, sentMessage{s.lastSeq, s.round, tasks})
	return s.lastSeq
}

func (s *stream) finishRound() {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	s.sending = 0
	s.replicator.notifyProgress()
}

func (s *stream) confirm(seq int64) {
	s.replicator.mu.Lock()
	defer s.replicator.mu.Unlock()
	for len(s.unconfirmed) > 0 && s.unconfirmed[0].seq <= seq {
		s.unconfirmed = s.unconfirmed[1:]
	}
	s.replicator.notifyProgress()
}

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
