// Package replication is the memory of tasks at a second scheduler: StandbyStore is
// what others have told this one, Replicator tells them what this one knows. Who is the
// standby of a task is decided here; what is done with a memory when its
// scheduler dies is not.
package replication

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/scheduler/internal/ids"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// Retention is how long a memory is kept whose scheduler tells nothing more: clients
// of a task that nobody took over by then are gone.
const Retention = 10 * time.Minute

// maxTasks bounds the tasks of a store.
const maxTasks = 1 << 17

// recalled is the stream that what was recalled is kept under.
const recalledStream = "recalled"

// State is a task as its scheduler knew it.
type State struct {
	// URL names the source without credentials, Source is what a CDN needs.
	URL    string
	Source *cdnv1.Source
	Update swarm.Update
}

// StandbyStore is what other schedulers have told. It is safe for concurrent use.
type StandbyStore struct {
	mu    sync.Mutex // guards tasks
	tasks map[string]*replica
}

// replica is one task.
type replica struct {
	stream  string // the stream that told it
	updated time.Time
	url     string
	source  *cdnv1.Source
	facts   *swarm.Facts
	result  *swarm.Result
	pieces  map[int32]swarm.PieceUpdate
	peers   peerSet
	// outdated are peers that have pieces of another version.
	outdated  []string
	streaming bool // the stream tells of it
	orphaned  bool // the stream ended while it did
}

// NewStandbyStore makes an empty store whose size is told to reg.
func NewStandbyStore(reg prometheus.Registerer) (*StandbyStore, error) {
	s := &StandbyStore{tasks: make(map[string]*replica)}
	return s, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_mirrored_tasks", Help: "Tasks of other schedulers whose memory is kept here.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.tasks))
	}))
}

// Check refuses a message with names that cannot be. It comes before Apply.
func Check(req *schedulerv1.MirrorRequest) error {
	for _, m := range req.GetTasks() {
		if err := ids.CheckTask(m.GetTaskId()); err != nil {
			return err
		}
		for _, p := range m.GetPeers() {
			if err := ids.Check(m.GetTaskId(), p.GetPeer().GetId()); err != nil {
				return err
			}
		}
	}
	return nil
}

// Apply notes what a stream tells. Only the stream that told a task anew may
// tell what changed in it.
func (s *StandbyStore) Apply(stream string, req *schedulerv1.MirrorRequest, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply(stream, req, now)
}

// ApplyRecalled notes what a standby still knew of a task, as of somebody who tells
// nothing more, unless somebody has told of it meanwhile: that is newer.
func (s *StandbyStore) ApplyRecalled(taskID string, req *schedulerv1.MirrorRequest, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[taskID] == nil {
		s.apply(recalledStream, req, now)
	}
}

// apply writes a message down. The caller holds mu.
func (s *StandbyStore) apply(stream string, req *schedulerv1.MirrorRequest, now time.Time) {
	for _, m := range req.GetTasks() {
		r := s.tasks[m.GetTaskId()]
		if m.GetAnew() {
			if r == nil && len(s.tasks) >= maxTasks {
				continue
			}
			r = &replica{
				stream: stream, url: m.GetTaskUrl(), source: m.GetSource(), streaming: true,
				pieces: make(map[int32]swarm.PieceUpdate), peers: peerSet{byID: make(map[string]replicaPeer)},
			}
			s.tasks[m.GetTaskId()] = r
		}
		if r != nil && r.stream == stream {
			r.updated = now
			r.apply(m)
		}
	}
	for _, id := range req.GetReleased() {
		if r := s.tasks[id]; r != nil && r.stream == stream {
			r.updated, r.streaming = now, false
		}
	}
	for _, id := range req.GetGone() {
		if r := s.tasks[id]; r != nil && r.stream == stream {
			delete(s.tasks, id)
		}
	}
}

func (r *replica) apply(m *schedulerv1.TaskMemory) {
	if f := m.GetFacts(); f != nil {
		facts := factsFrom(f)
		r.facts = &facts
	}
	if result := m.GetResult(); result != nil {
		r.result = &swarm.Result{MD5: result.GetMd5(), Length: result.GetLength(), PieceCount: result.GetPieceCount()}
	}
	for _, piece := range m.GetPieces() {
		r.pieces[piece.GetNum()] = swarm.PieceUpdate{Num: piece.GetNum(), MD5: piece.GetMd5(), Length: piece.GetLength()}
	}
	for _, peer := range m.GetPeers() {
		r.peers.apply(peerFrom(peer))
	}
	for _, id := range m.GetForgotten() {
		delete(r.peers.byID, id)
	}
	r.outdated = append(r.outdated, m.GetOutdated()...)
}

// EndStream says that a stream tells nothing more: what it told is kept for a while.
func (s *StandbyStore) EndStream(stream string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.tasks {
		if r.stream == stream {
			r.updated, r.orphaned, r.streaming = now, r.orphaned || r.streaming, false
		}
	}
}

// Has tells whether anything is remembered of a task.
func (s *StandbyStore) Has(taskID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[taskID] != nil
}

// Orphaned tells whether a task is remembered whose scheduler told of it until it
// was not heard any more: it is dead, as far as can be seen from here.
func (s *StandbyStore) Orphaned(taskID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.tasks[taskID]
	return r != nil && r.orphaned
}

// Get gives what is remembered of a task, if anything is. It stays there:
// whoever asks may find that the task is another's.
func (s *StandbyStore) Get(taskID string) (State, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.tasks[taskID]
	if r == nil {
		return State{}, false
	}
	return State{URL: r.url, Source: r.source, Update: swarm.Update{
		Full: true, Facts: r.facts, Result: r.result,
		Pieces: slices.Collect(maps.Values(r.pieces)), Peers: r.peers.snapshot(),
		Outdated: slices.Clone(r.outdated),
	}}, true
}

// Parts gives what is remembered of a task as messages, none for nothing.
func (s *StandbyStore) Parts(taskID string) []*schedulerv1.TaskMemory {
	state, known := s.Get(taskID)
	if !known {
		return nil
	}
	list := splitUpdate(taskID, state.Update)
	list[0].TaskUrl, list[0].Source = state.URL, state.Source
	return list
}

// Delete drops what is remembered of a task.
func (s *StandbyStore) Delete(taskID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, taskID)
}

// Prune drops what nobody tells of any more, Retention after the last word.
func (s *StandbyStore) Prune(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.tasks, func(_ string, r *replica) bool { return !r.streaming && now.Sub(r.updated) >= Retention })
}
