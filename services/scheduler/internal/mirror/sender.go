package mirror

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Task is a task whose memory is told.
type Task interface {
	// Update tells what changed since it was asked last, or all there is.
	Changes(ctx context.Context, anew bool) (swarm.Update, error)
}

// Members are the schedulers of the cluster.
type Members interface {
	Schedulers() []cluster.Member
	// Changed is closed when the list is another one than now.
	Changed() <-chan struct{}
}

// Deps are what a sender needs; all are required.
type Deps struct {
	// SelfID is this scheduler's member id.
	SelfID  string
	Members Members
	Dial    func(endpoint string) (grpc.ClientConnInterface, error)
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Sender tells the standbys of this scheduler's tasks what it knows of them.
// It is safe for concurrent use while Run runs.
type Sender struct {
	Deps
	sent  prometheus.Counter
	bytes prometheus.Counter

	mu    sync.Mutex // guards what follows and what lanes hold of tasks
	tasks map[string]*told
	lanes map[string]*lane // by the standby's id
	moved chan struct{}    // closed and replaced whenever a standby has taken something
}

// told is a task that is told of.
type told struct {
	Task
	url    string
	source *cdnv1.Source
	lane   *lane // nil while there is no standby
	anew   bool  // the standby has nothing of it

	// turn is held while the task is asked what changed: of two lanes the one
	// that has it now must be the last to ask.
	turn sync.Mutex
}

// NewSender makes a sender that tells nothing until Run.
func NewSender(deps Deps) (*Sender, error) {
	s := &Sender{
		Deps: deps, tasks: make(map[string]*told), lanes: make(map[string]*lane), moved: make(chan struct{}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_scheduler_mirror_messages_total", Help: "Messages that told a standby of tasks' memories.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_scheduler_mirror_bytes_total", Help: "Bytes of those messages.",
		}),
	}
	behind := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_mirror_behind_tasks", Help: "Tasks of which the standby does not know the latest.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(s.behind())
	})
	for _, c := range []prometheus.Collector{s.sent, s.bytes, behind} {
		if err := deps.Metrics.Register(c); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Standby is who takes a task over when its scheduler dies: the first READY
// scheduler in rendezvous order that is another.
func Standby(taskID, scheduler string, members []cluster.Member) (cluster.Member, bool) {
	var nodes []ring.Node
	byID := make(map[string]cluster.Member, len(members))
	for _, m := range members {
		if m.ID != scheduler && !m.Draining {
			nodes = append(nodes, ring.Node{ID: m.ID})
			byID[m.ID] = m
		}
	}
	id, ok := ring.First(taskID, nodes)
	return byID[id], ok
}

// Standby is who the standby of a task of this scheduler is.
func (s *Sender) Standby(taskID string) (cluster.Member, bool) {
	return Standby(taskID, s.SelfID, s.Members.Schedulers())
}

// Add has a task told of from now on. One of that id that was told of before has
// been removed or released.
func (s *Sender) Add(id, url string, source *cdnv1.Source, t Task) {
	s.mu.Lock()
	defer s.mu.Unlock()
	item := &told{Task: t, url: url, source: source}
	s.tasks[id] = item
	s.assign(id, item, s.Members.Schedulers())
}

// Remove ends that, if it is still that task: the task is no more.
func (s *Sender) Remove(id string, t Task) {
	s.end(id, t, func(l *lane) { l.drop(id) })
}

// Release is Remove for a task that is another scheduler's now, the standby's
// perhaps: what that was told stays there.
func (s *Sender) Release(id string, t Task) {
	s.end(id, t, func(l *lane) { l.release(id) })
}

func (s *Sender) end(id string, t Task, how func(*lane)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	item := s.tasks[id]
	if item == nil || item.Task != t {
		return
	}
	delete(s.tasks, id)
	if item.lane != nil {
		how(item.lane)
	}
}

// Changed says that a task has something to tell.
func (s *Sender) Changed(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if item := s.tasks[id]; item != nil && item.lane != nil {
		item.lane.mark(id)
	}
}

// assign gives a task to its standby's lane. The standby before keeps what it
// knows, for a while: the new one has nothing yet, and is perhaps not reached,
// or there is none. The caller holds mu.
func (s *Sender) assign(id string, item *told, members []cluster.Member) {
	var next *lane
	if m, ok := Standby(id, s.SelfID, members); ok {
		next = s.lanes[m.ID]
	}
	if next == item.lane {
		return
	}
	if item.lane != nil {
		item.lane.release(id)
	}
	item.lane, item.anew = next, true
	if next != nil {
		next.mark(id)
	}
}

func (s *Sender) behind() int {
	n := 0
	for _, l := range s.lanes {
		n += l.behind()
	}
	return n
}

// progress wakes who waits. The caller holds mu.
func (s *Sender) progress() {
	close(s.moved)
	s.moved = make(chan struct{})
}

// Flush waits until the standbys, or some of them, know what there is to tell
// now, or ctx ends.
func (s *Sender) Flush(ctx context.Context, ids ...string) error {
	s.mu.Lock()
	marks := make(map[*lane]mark)
	for id, l := range s.lanes {
		if len(ids) == 0 || slices.Contains(ids, id) {
			marks[l] = l.pending()
		}
	}
	s.mu.Unlock()
	for {
		s.mu.Lock()
		moved := s.moved
		for l, m := range marks {
			if m.streams != l.streams { // all is told anew, and may have been by now
				m = l.pending()
				marks[l] = m
			}
			if s.lanes[l.to.ID] != l || l.settled(m) {
				delete(marks, l) // others are told by those that come after it
			}
		}
		left := len(marks)
		s.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("%d standbys do not know the latest: %w", left, ctx.Err())
		}
	}
}

// Run tells until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		changed := s.Members.Changed()
		s.arrange(ctx, &work)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// arrange has a lane for every other scheduler, and every task in the right one.
func (s *Sender) arrange(ctx context.Context, work *sync.WaitGroup) {
	s.mu.Lock()
	defer s.mu.Unlock()
	members := s.Members.Schedulers()
	there := make(map[string]bool)
	for _, m := range members {
		if m.ID == s.SelfID {
			continue
		}
		there[m.ID] = true
		old := s.lanes[m.ID]
		if old != nil && old.to.Endpoint == m.Endpoint {
			continue
		}
		if old != nil {
			old.end()
		}
		run, end := context.WithCancel(ctx)
		l := &lane{
			sender: s, to: m, end: end, wake: make(chan struct{}, 1), changed: make(map[string]struct{}),
			gone: make(map[string]struct{}), released: make(map[string]struct{}),
		}
		s.lanes[m.ID] = l
		work.Go(func() { l.run(run) })
	}
	for id, l := range s.lanes {
		if !there[id] {
			l.end()
			delete(s.lanes, id)
		}
	}
	for id, item := range s.tasks {
		s.assign(id, item, members)
	}
	s.progress()
}
