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

// Task is a task whose state is replicated.
type Task interface {
	// Changes returns what has changed since the previous call, or the complete
	// state if full is set.
	Changes(ctx context.Context, full bool) (swarm.Update, error)
}

// Members lists the schedulers of the cluster.
type Members interface {
	Schedulers() []cluster.Member
	// Changed returns a channel that is closed when the list changes.
	Changed() <-chan struct{}
}

// Deps holds the dependencies of a replicator. All are required.
type Deps struct {
	// SelfID is this scheduler's member id.
	SelfID  string
	Members Members
	Dial    func(endpoint string) (grpc.ClientConnInterface, error)
	Log     *zap.Logger
	Metrics prometheus.Registerer
}

// Replicator replicates the state of this scheduler's tasks to their standbys. It is
// safe for concurrent use while Run runs.
type Replicator struct {
	Deps
	sent  prometheus.Counter
	bytes prometheus.Counter

	mu         sync.Mutex // guards the fields below and the backlogs of the streams
	tasks      map[string]*replicatedTask
	streams    map[string]*stream // by the standby's id
	progressed chan struct{}      // closed and replaced whenever a backlog may have become smaller
}

// replicatedTask is a task that is being replicated.
type replicatedTask struct {
	Task
	url       string
	source    *cdnv1.Source
	stream    *stream // nil while there is no standby
	needsFull bool    // the next update must be a full one

	// readMu is held while Changes is called. Of two streams, the one that the task
	// is assigned to must be the last to call it.
	readMu sync.Mutex
}

// NewReplicator returns a replicator that sends nothing until Run.
func NewReplicator(deps Deps) (*Replicator, error) {
	r := &Replicator{
		Deps: deps, tasks: make(map[string]*replicatedTask), streams: make(map[string]*stream), progressed: make(chan struct{}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_scheduler_mirror_messages_total", Help: "Messages that replicate tasks to standbys.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "supernode_scheduler_mirror_bytes_total", Help: "Bytes of those messages.",
		}),
	}
	backlog := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_mirror_behind_tasks", Help: "Tasks whose latest changes the standby has not confirmed.",
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

// Standby returns the standby of a task of the given scheduler: the first other
// scheduler in rendezvous order that is READY.
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

// Standby returns the standby of a task of this scheduler.
func (r *Replicator) Standby(taskID string) (cluster.Member, bool) {
	return Standby(taskID, r.SelfID, r.Members.Schedulers())
}

// Add starts replicating a task to its standby. A task that was added before with the
// same id must have been removed or released.
func (r *Replicator) Add(id, url string, source *cdnv1.Source, t Task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	item := &replicatedTask{Task: t, url: url, source: source}
	r.tasks[id] = item
	r.assign(id, item, r.Members.Schedulers())
}

// Remove stops replicating a task that has ended. The standby deletes its replica.
// Remove has no effect if another task was added with the same id.
func (r *Replicator) Remove(id string, t Task) {
	r.stop(id, t, func(s *stream) { s.addDeleted(id) })
}

// Release stops replicating a task that another scheduler answers for now. That may be
// the standby, which keeps its replica.
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

// MarkChanged schedules an update of a task.
func (r *Replicator) MarkChanged(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if item := r.tasks[id]; item != nil && item.stream != nil {
		item.stream.addChanged(id)
	}
}

// assign moves a task to the stream of its standby. The previous standby keeps its
// replica for Retention: the new one has none yet and may be out of reach, or
// there may be no new one. The caller holds mu.
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

// backlog returns the number of tasks whose latest changes are not confirmed. The
// caller holds mu.
func (r *Replicator) backlog() int {
	n := 0
	for _, s := range r.streams {
		n += s.backlog()
	}
	return n
}

// notifyProgress wakes the callers of Flush. The caller holds mu.
func (r *Replicator) notifyProgress() {
	close(r.progressed)
	r.progressed = make(chan struct{})
}

// Flush waits until the standbys with the given ids, or all if there are none, have
// confirmed all changes up to now, or until ctx ends.
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
			if p.attempt != s.attempt { // everything is sent again, and may have been sent by now
				p = s.target()
				targets[s] = p
			}
			if r.streams[s.standby.ID] != s || s.reached(p) {
				delete(targets, s) // it was replaced: its successor sends the tasks
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
			return fmt.Errorf("waiting for %d standbys to confirm the latest changes: %w", left, ctx.Err())
		}
	}
}

// Run replicates tasks until ctx ends.
func (r *Replicator) Run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		changed := r.Members.Changed()
		r.updateStreams(ctx, &wg)
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// updateStreams starts a stream for every other scheduler, stops those of schedulers
// that have left, and assigns every task to the stream of its standby.
func (r *Replicator) updateStreams(ctx context.Context, wg *sync.WaitGroup) {
	r.mu.Lock()
	defer r.mu.Unlock()
	members := r.Members.Schedulers()
	current := make(map[string]bool)
	for _, m := range members {
		if m.ID == r.SelfID {
			continue
		}
		current[m.ID] = true
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
		wg.Go(func() { s.run(runCtx) })
	}
	for id, s := range r.streams {
		if !current[id] {
			s.cancel()
			delete(r.streams, id)
		}
	}
	for id, item := range r.tasks {
		r.assign(id, item, members)
	}
	r.notifyProgress()
}
