package mirror

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
)

const (
	// gather is how long changes are gathered before they are told.
	gather = 50 * time.Millisecond
	// bytesOfMessage and idsOfMessage are what one message holds at most, if it is
	// more than one part.
	bytesOfMessage = 1 << 20
	idsOfMessage   = 10_000
	// A stream that broke is opened anew after firstPause, doubled up to lastPause.
	firstPause = 100 * time.Millisecond
	lastPause  = 3 * time.Second
)

// lane is the way to one standby. What it holds of tasks is guarded by the
// sender's mu.
type lane struct {
	sender *Sender
	to     cluster.Member
	end    context.CancelFunc

	changed  map[string]struct{} // tasks that have something to tell
	gone     map[string]struct{} // tasks that are no more
	released map[string]struct{} // tasks that are another's, or told to another
	// streams counts those that were opened, rounds the times that it told what
	// there was to tell, on this one.
	streams, rounds int
	// telling are the tasks that are being told, untaken those of every message
	// that is not confirmed yet.
	telling int
	sent    int64
	untaken []untaken
	wake    chan struct{}
}

// untaken is a message that is not confirmed, its round and the number of its
// tasks.
type untaken struct {
	seq   int64
	round int
	tasks int
}

// mark is what has to be told for a moment's all to be known.
type mark struct{ streams, rounds int }

// pending is the mark of now. The caller holds mu, as for settled.
func (l *lane) pending() mark {
	m := mark{l.streams, l.rounds}
	if len(l.changed)+len(l.gone)+len(l.released) > 0 {
		m.rounds++
	}
	return m
}

// settled tells whether all that a mark is of has been confirmed.
func (l *lane) settled(m mark) bool {
	switch {
	case l.streams != m.streams || l.rounds < m.rounds:
		return false
	case len(l.untaken) > 0 && l.untaken[0].round <= m.rounds:
		return false
	}
	return l.telling == 0 || l.rounds > m.rounds
}

// behind is how many tasks the standby does not know the latest of. The caller
// holds mu.
func (l *lane) behind() int {
	n := len(l.changed) + len(l.gone) + len(l.released) + l.telling
	for _, m := range l.untaken {
		n += m.tasks
	}
	return n
}

// mark, drop and release are called with mu held.
func (l *lane) mark(id string) {
	l.changed[id] = struct{}{}
	delete(l.gone, id)
	delete(l.released, id)
	l.poke()
}

func (l *lane) drop(id string) {
	delete(l.changed, id)
	l.gone[id] = struct{}{}
	l.poke()
}

func (l *lane) release(id string) {
	delete(l.changed, id)
	l.released[id] = struct{}{}
	l.poke()
}

func (l *lane) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lane) run(ctx context.Context) {
	warned := false
	for pause := firstPause; ctx.Err() == nil; pause = min(2*pause, lastPause) {
		told, err := l.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		if told {
			pause, warned = firstPause, false
		}
		if !warned {
			l.sender.Log.Info("a standby is not reached; trying on", zap.String("scheduler_id", l.to.ID), zap.Error(err))
			warned = true
		}
		if !sleep(ctx, pause) {
			return
		}
	}
}

// stream tells all tasks of the lane anew, and then what changes, until the
// stream breaks.
func (l *lane) stream(ctx context.Context) (told bool, err error) {
	var reader sync.WaitGroup
	defer reader.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	conn, err := l.sender.Dial(l.to.Endpoint)
	if err != nil {
		return false, fmt.Errorf("reaching a standby: %w", err)
	}
	stream, err := schedulerv1.NewSchedulerServiceClient(conn).Mirror(ctx)
	if err != nil {
		return false, fmt.Errorf("reaching a standby: %w", err)
	}
	l.anew()
	// What the standby had may be lost with the stream: nothing counts as known
	// to it until it is told again, though that may take a while.
	defer l.anew()
	broken := make(chan error, 1)
	reader.Go(func() {
		for {
			resp, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			l.confirmed(resp.GetSeq())
		}
	})
	for {
		select {
		case <-ctx.Done():
			return told, ctx.Err()
		case err := <-broken:
			return told, fmt.Errorf("telling a standby: %w", err)
		case <-l.wake:
		}
		if !sleep(ctx, gather) {
			return told, ctx.Err()
		}
		if err := l.tell(ctx, stream.Send); err != nil {
			return told, err
		}
		told = true
	}
}

// anew marks all tasks of the lane as unknown to the standby.
func (l *lane) anew() {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	l.sent, l.untaken, l.telling, l.rounds = 0, nil, 0, 0
	l.streams++
	clear(l.gone)
	clear(l.released)
	for id, item := range l.sender.tasks {
		if item.lane == l {
			item.anew = true
			l.mark(id)
		}
	}
	l.sender.progress() // there may be nothing left to tell here
}

// work is one task that is told of.
type work struct {
	id   string
	item *told
	anew bool
}

// due takes what is to be told.
func (l *lane) due() (list []work, gone, released []string) {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	for id := range l.changed {
		item := l.sender.tasks[id]
		if item == nil || item.lane != l {
			continue
		}
		list = append(list, work{id, item, item.anew})
		item.anew = false
	}
	for id := range l.gone {
		gone = append(gone, id)
	}
	for id := range l.released {
		released = append(released, id)
	}
	clear(l.changed)
	clear(l.gone)
	clear(l.released)
	l.rounds++
	l.telling = len(list) + len(gone) + len(released)
	return list, gone, released
}

// tell sends what is to be told.
func (l *lane) tell(ctx context.Context, send func(*schedulerv1.MirrorRequest) error) error {
	list, gone, released := l.due()
	defer l.toldAll()
	out := batch{lane: l, send: send}
	for ids := range slices.Chunk(gone, idsOfMessage) {
		if err := out.flush(&schedulerv1.MirrorRequest{Gone: ids}); err != nil {
			return err
		}
	}
	for ids := range slices.Chunk(released, idsOfMessage) {
		if err := out.flush(&schedulerv1.MirrorRequest{Released: ids}); err != nil {
			return err
		}
	}
	for _, w := range list {
		parts, err := l.ask(ctx, w)
		if err != nil {
			return err
		}
		for _, part := range parts {
			if err := out.add(part); err != nil {
				return err
			}
		}
	}
	return out.rest()
}

// ask asks a task what changed, if the task is this lane's still.
func (l *lane) ask(ctx context.Context, w work) ([]*schedulerv1.TaskMemory, error) {
	w.item.turn.Lock()
	defer w.item.turn.Unlock()
	if !l.has(w) {
		return nil, nil
	}
	memory, err := w.item.Changes(ctx, w.anew)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, nil // it has ended, and will be dropped
	case memory.Full && memory.Facts == nil:
		// It may turn out to be another's, whose memory this must not replace.
		l.again(w)
		return nil, nil
	}
	list := parts(w.id, memory)
	if memory.Full {
		list[0].TaskUrl, list[0].Source = w.item.url, w.item.source
	}
	return list, nil
}

func (l *lane) has(w work) bool {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	return l.sender.tasks[w.id] == w.item && w.item.lane == l
}

// again has the standby told everything with the next change.
func (l *lane) again(w work) {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	w.item.anew = true
}

// batch gathers parts into messages.
type batch struct {
	lane *lane
	send func(*schedulerv1.MirrorRequest) error
	next *schedulerv1.MirrorRequest
	size int
}

func (b *batch) add(part *schedulerv1.TaskMemory) error {
	size := proto.Size(part)
	if b.size > 0 && b.size+size > bytesOfMessage {
		if err := b.rest(); err != nil {
			return err
		}
	}
	if b.next == nil {
		b.next = &schedulerv1.MirrorRequest{}
	}
	b.next.Tasks = append(b.next.Tasks, part)
	b.size += size
	return nil
}

// rest sends what was gathered.
func (b *batch) rest() error {
	if b.next == nil {
		return nil
	}
	m := b.next
	b.next, b.size = nil, 0
	return b.flush(m)
}

func (b *batch) flush(m *schedulerv1.MirrorRequest) error {
	s := b.lane.sender
	m.SchedulerId, m.Seq = s.SelfID, b.lane.next(len(m.GetTasks())+len(m.GetGone())+len(m.GetReleased()))
	s.sent.Inc()
	s.bytes.Add(float64(proto.Size(m)))
	if err := b.send(m); err != nil {
		return fmt.Errorf("telling a standby: %w", err)
	}
	return nil
}

func (l *lane) next(tasks int) int64 {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	l.sent++
	l.untaken = append(l.untaken, untaken{l.sent, l.rounds, tasks})
	return l.sent
}

func (l *lane) toldAll() {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	l.telling = 0
	l.sender.progress()
}

func (l *lane) confirmed(seq int64) {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	for len(l.untaken) > 0 && l.untaken[0].seq <= seq {
		l.untaken = l.untaken[1:]
	}
	l.sender.progress()
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
