// Package replication keeps the state of every task at a second scheduler, the task's
// standby, which restores the task from it when the task's scheduler dies or stops. A
// Replicator sends the state of this scheduler's tasks to their standbys, and a
// StandbyStore holds the state that other schedulers have sent. This package
// chooses the standby of a task; package taskmanager decides when a task is
// restored.
//
// There is one stream per standby. A task that changes is marked; after gatherTime the
// stream sends what has changed in all marked tasks:
//
//	unassigned --there is a standby--> marked --sent--> unconfirmed --confirmed--> replicated
//	                                     ^                   |                         |
//	                                     +--the task changes, or the stream breaks-----+
//
// A replica, the state of one task in a StandbyStore, passes through these states:
//
//	replicating --its scheduler releases the task---> released
//	replicating --its stream ends-------------------> orphaned
//	any --a scheduler sends the complete state------> replicating
//	released, orphaned --Retention without update---> deleted
//	any --its scheduler ends the task---------------> deleted
//
// Invariants:
//
//   - Only Flush waits for a standby. If a standby hangs, only its own stream is
//     blocked, and the backlog of that stream is a set of task ids.
//   - The first update of a task on a stream is a full one. When a stream breaks,
//     nothing counts as replicated until it is sent again.
//   - Only the stream that sent the last full update of a task may update its replica.
//   - Applying an update twice has the same result as applying it once.
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

// Retention is how long a replica is kept without updates. If no scheduler has taken
// the task over by then, its clients have left.
const Retention = 10 * time.Minute

// maxTasks is the maximum number of replicas.
const maxTasks = 1 << 17

// recalledStream is the stream id of state that was recalled from a standby.
const recalledStream = "recalled"

// State holds the replicated state of a task.
type State struct {
	// URL is that of the source, without credentials. Source holds what a CDN needs
	// to download from it.
	URL    string
	Source *cdnv1.Source
	Update swarm.Update
}

// StandbyStore holds the replicas of other schedulers' tasks. It is safe for concurrent
// use.
type StandbyStore struct {
	mu    sync.Mutex // guards tasks
	tasks map[string]*replica
}

// replicaState is the state of a replica. The package comment shows the transitions.
type replicaState uint8

const (
	replicating replicaState = iota // its stream sends updates
	released                        // its scheduler has given the task away or has replaced this standby
	orphaned                        // its stream ended while it sent updates
)

// replica holds the state of one task.
type replica struct {
	stream  string // the stream that sent the last full update
	state   replicaState
	updated time.Time
	url     string
	source  *cdnv1.Source
	facts   *swarm.Facts
	result  *swarm.Result
	pieces  map[int32]swarm.PieceUpdate
	peers   peerSet
	// outdated are the peers that have pieces of another version of the source.
	outdated []string
}

// NewStandbyStore returns an empty store and registers its metrics with reg.
func NewStandbyStore(reg prometheus.Registerer) (*StandbyStore, error) {
	s := &StandbyStore{tasks: make(map[string]*replica)}
	return s, reg.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "supernode_scheduler_mirrored_tasks", Help: "Tasks of other schedulers whose replicated state is held here.",
	}, func() float64 {
		s.mu.Lock()
		defer s.mu.Unlock()
		return float64(len(s.tasks))
	}))
}

// Check returns an error if a message contains an invalid task or peer id. A message
// must be checked before it is applied.
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

// Apply applies a message of the given stream. Updates of tasks whose last full update
// came from another stream are ignored.
func (s *StandbyStore) Apply(stream string, req *schedulerv1.MirrorRequest, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apply(stream, req, now)
}

// ApplyRecalled applies the state of a task that was recalled from its standby, unless
// another scheduler has replicated the task in the meantime: that state is newer.
func (s *StandbyStore) ApplyRecalled(taskID string, req *schedulerv1.MirrorRequest, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks[taskID] == nil {
		s.apply(recalledStream, req, now)
	}
}

// apply is Apply for callers that hold mu.
func (s *StandbyStore) apply(stream string, req *schedulerv1.MirrorRequest, now time.Time) {
	for _, m := range req.GetTasks() {
		r := s.tasks[m.GetTaskId()]
		if m.GetAnew() {
			if r == nil && len(s.tasks) >= maxTasks {
				continue
			}
			r = &replica{
				stream: stream, url: m.GetTaskUrl(), source: m.GetSource(),
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
			r.endUpdates(released, now)
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

// endUpdates moves a replica from replicating to the given state. The time until it is
// deleted starts now.
func (r *replica) endUpdates(state replicaState, now time.Time) {
	r.updated = now
	if r.state == replicating {
		r.state = state
	}
}

// EndStream orphans the replicas that a stream was updating when it ended.
func (s *StandbyStore) EndStream(stream string, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.tasks {
		if r.stream == stream {
			r.endUpdates(orphaned, now)
		}
	}
}

// Has reports whether there is a replica of a task.
func (s *StandbyStore) Has(taskID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tasks[taskID] != nil
}

// Orphaned reports whether there is a replica of a task whose stream ended while it sent
// updates. The task's scheduler is then dead, or does not reach this scheduler.
func (s *StandbyStore) Orphaned(taskID string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.tasks[taskID]
	return r != nil && r.state == orphaned
}

// Get returns the replicated state of a task, if there is any. The replica is kept,
// because the caller may find that another scheduler answers for the task.
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

// Parts returns the replicated state of a task as protobuf messages of bounded size. It
// returns none if there is no replica.
func (s *StandbyStore) Parts(taskID string) []*schedulerv1.TaskMemory {
	state, ok := s.Get(taskID)
	if !ok {
		return nil
	}
	parts := splitUpdate(taskID, header{state.URL, state.Source}, state.Update)
	list := make([]*schedulerv1.TaskMemory, len(parts))
	for i, p := range parts {
		list[i] = p.TaskMemory
	}
	return list
}

// Delete deletes the replica of a task.
func (s *StandbyStore) Delete(taskID string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, taskID)
}

// Prune deletes the replicas that are not replicating and have not been updated for
// Retention.
func (s *StandbyStore) Prune(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.tasks, func(_ string, r *replica) bool { return r.state != replicating && now.Sub(r.updated) >= Retention })
}
