package mirror

import (
	"context"
	"fmt"
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
	// bytesOfMessage is about what one message holds at most, beside its last part.
	bytesOfMessage = 1 << 20
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

	changed map[string]struct{} // tasks that have something to tell
	gone    map[string]struct{} // tasks that it was told of and will not be any more
	// telling are the tasks that are being told, untaken those of every message
	// that is not confirmed yet.
	telling int
	sent    int64
	untaken []untaken
	wake    chan struct{}
}

// untaken is a message that is not confirmed, and the number of its tasks.
type untaken struct {
	seq   int64
	tasks int
}

// behind is how many tasks the standby does not know the latest of. The caller
// holds mu.
func (l *lane) behind() int {
	n := len(l.changed) + len(l.gone) + l.telling
	for _, m := range l.untaken {
		n += m.tasks
	}
	return n
}

// mark and drop are called with mu held.
func (l *lane) mark(id string) {
	l.changed[id] = struct{}{}
	delete(l.gone, id)
	l.poke()
}

func (l *lane) drop(id string) {
	delete(l.changed, id)
	l.gone[id] = struct{}{}
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
	l.begin()
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

// begin marks all tasks of the lane as unknown to the standby.
func (l *lane) begin() {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	l.sent, l.untaken, l.telling = 0, nil, 0
	clear(l.gone)
	for id, item := range l.sender.tasks {
		if item.lane == l {
			item.anew = true
			l.mark(id)
		}
	}
}

// work is one task that is told of.
type work struct {
	id   string
	item *told
	anew bool
}

// due takes what is to be told.
func (l *lane) due() (list []work, gone []string) {
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
	clear(l.changed)
	clear(l.gone)
	l.telling = len(list) + len(gone)
	return list, gone
}

// tell sends what is to be told.
func (l *lane) tell(ctx context.Context, send func(*schedulerv1.MirrorRequest) error) error {
	list, gone := l.due()
	defer l.toldAll()
	m := &schedulerv1.MirrorRequest{Gone: gone}
	size := 0
	flush := func() error {
		m.SchedulerId, m.Seq = l.sender.SelfID, l.next(len(m.GetTasks())+len(m.GetGone()))
		l.sender.sent.Inc()
		l.sender.bytes.Add(float64(proto.Size(m)))
		err := send(m)
		m, size = &schedulerv1.MirrorRequest{}, 0
		if err != nil {
			return fmt.Errorf("telling a standby: %w", err)
		}
		return nil
	}
	for _, w := range list {
		memory, err := w.item.Memory(ctx, w.anew)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue // it has ended, and will be dropped
		}
		for i, part := range parts(w.id, memory) {
			if i == 0 && part.GetAnew() {
				part.TaskUrl, part.Source = w.item.url, w.item.source
			}
			m.Tasks = append(m.Tasks, part)
			if size += proto.Size(part); size >= bytesOfMessage {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	if len(m.Tasks) == 0 && len(m.Gone) == 0 {
		return nil
	}
	return flush()
}

func (l *lane) next(tasks int) int64 {
	l.sender.mu.Lock()
	defer l.sender.mu.Unlock()
	l.sent++
	l.untaken = append(l.untaken, untaken{l.sent, tasks})
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
