package replication

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
	Changes(ctx context.Context, full bool) (swarm.Update, error)
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

// Replicator tells the standbys of this scheduler's tasks what it knows of them.
// It is safe for concurrent use while Run runs.
type Replicator struct {
	Deps
	sent  prometheus.Counter
	bytes prometheus.Counter

	mu         sync.Mutex // guards what follows and what streams hold of tasks
	tasks      map[string]*replicatedTask
	streams    map[string]*stream // by the standby's id
	progressed chan struct{}      // closed and replaced whenever a standby has taken something
}

// replicatedTask is a task that is told of.
type replicatedTask struct {
	Task
	url       string
	source    *cdnv1.Source
	stream    *stream // nil while there is no standby
	needsFull bool    // the standby has nothing of it

	// readMu is held while the task is asked what changed: of two streams the one
	// that has it now must be the last to ask.
	readMu sync.Mutex
}

// NewReplicator makes a sender that tells nothing until Run.
func NewReplicator(deps Deps) (*Replicator, error) {
	r := &Replicator{
		Deps: deps, tasks: make(map[string]*replicatedTask), streams: make(map[string]*stream), progressed: make(chan struct{}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_scheduler_mirror_messages_total", Help: "Messages that told a standby of tasks' memories.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_scheduler_mirror_bytes_total", Help: "Bytes of those messages.",
		}),
	}
	backlog := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_mirror_behind_tasks", Help: "Tasks of which the standby does not know the latest.",
	}, func() float64 {
		r.mu.Lock()
		defer r.mu.Unlock()
		return float64(r.backlog())
	})
	for _, c := range []prometheus.Collector{r.sent, r.bytes, backlog} {
		if err := deps.Metrics.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
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
func (r *Replicator) Standby(taskID string) (cluster.Member, bool) {
	return Standby(taskID, r.SelfID, r.Members.Schedulers())
}

// Add has a task told of from now on. One of that id that was told of before has
// been removed or released.
func (r *Replicator) Add(id, url string, source *cdnv1.Source, t Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	item := &replicatedTask{Task: t, url: url, source: source}
	r.tasks[id] = item
	r.assign(id, item, r.Members.Schedulers())
}

// Remove ends that, if it is still that task: the task is no more.
func (r *Replicator) Remove(id string, t Task) {
	r.stop(id, t, func(s *stream) { s.addDeleted(id) })
}

// Release is Remove for a task that is another scheduler's now, the standby's
// perhaps: what that was told stays there.
func (r *Replicator) Release(id string, t Task) {
	r.stop(id, t, func(s *stream) { s.addReleased(id) })
}

func (r *Replicator) stop(id string, t Task, enqueue func(*stream)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	item := r.tasks[id]
	if item == nil || item.Task != t {
		return
	}
	delete(r.tasks, id)
	if item.stream != nil {
		enqueue(item.stream)
	}
}

// MarkChanged says that a task has something to tell.
func (r *Replicator) MarkChanged(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if item := r.tasks[id]; item != nil && item.stream != nil {
		item.stream.addChanged(id)
	}
}

// assign gives a task to its standby's lane. The standby before keeps what it
// knows, for a while: the new one has nothing yet, and is perhaps not reached,
// or there is none. The caller holds mu.
func (r *Replicator) assign(id string, item *replicatedTask, members []cluster.Member) {
	var next *stream
	if m, ok := Standby(id, r.SelfID, members); ok {
		next = r.streams[m.ID]
	}
	if next == item.stream {
		return
	}
	if item.stream != nil {
		item.stream.addReleased(id)
	}
	item.stream, item.needsFull = next, true
	if next != nil {
		next.addChanged(id)
	}
}

func (r *Replicator) backlog() int {
	n := 0
	for _, s := range r.streams {
		n += s.backlog()
	}
	return n
}

// notifyProgress wakes who waits. The caller holds mu.
func (r *Replicator) notifyProgress() {
	close(r.progressed)
	r.progressed = make(chan struct{})
}

// Flush waits until the standbys, or some of them, know what there is to tell
// now, or ctx ends.
func (r *Replicator) Flush(ctx context.Context, ids ...string) error {
	r.mu.Lock()
	targets := make(map[*stream]position)
	for id, s := range r.streams {
		if len(ids) == 0 || slices.Contains(ids, id) {
			targets[s] = s.target()
		}
	}
	r.mu.Unlock()
	for {
		r.mu.Lock()
		progressed := r.progressed
		for s, p := range targets {
			if p.attempt != s.attempt { // all is told anew, and may have been by now
				p = s.target()
				targets[s] = p
			}
			if r.streams[s.standby.ID] != s || s.reached(p) {
				delete(targets, s) // others are told by those that come after it
			}
		}
		left := len(targets)
		r.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-progressed:
		case <-ctx.Done():
			return fmt.Errorf("%d standbys do not know the latest: %w", left, ctx.Err())
		}
	}
}

// Run tells until ctx ends.
func (r *Replicator) Run(ctx context.Context) {
	var work sync.WaitGroup
	defer work.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		changed := r.Members.Changed()
		r.updateStreams(ctx, &work)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// updateStreams has a lane for every other scheduler, and every task in the right one.
func (r *Replicator) updateStreams(ctx context.Context, work *sync.WaitGroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	members := r.Members.Schedulers()
	there := make(map[string]bool)
	for _, m := range members {
		if m.ID == r.SelfID {
			continue
		}
		there[m.ID] = true
		old := r.streams[m.ID]
		if old != nil && old.standby.Endpoint == m.Endpoint {
			continue
		}
		if old != nil {
			old.cancel()
		}
		runCtx, cancel := context.WithCancel(ctx)
		s := &stream{
			replicator: r, standby: m, cancel: cancel, wake: make(chan struct{}, 1), changed: make(map[string]struct{}),
			deleted: make(map[string]struct{}), released: make(map[string]struct{}),
		}
		r.streams[m.ID] = s
		work.Go(func() { s.run(runCtx) })
	}
	for id, s := range r.streams {
		if !there[id] {
			s.cancel()
			delete(r.streams, id)
		}
	}
	for id, item := range r.tasks {
		r.assign(id, item, members)
	}
	r.notifyProgress()
}
