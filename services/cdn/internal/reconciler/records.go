package reconciler

import (
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// streamStarted is told that a new stream of records has begun.
func (s *state) streamStarted() {
	s.stream++
	s.complete = false
	clear(s.index.unnamedAt)
}

// applyMessage takes a message of the stream.
func (s *state) applyMessage(m *registryv1.WatchTasksResponse) {
	now := time.Now()
	if n := int(m.GetReplicas()); n > 0 && n != s.wantedCopies {
		s.wantedCopies = n
		s.evaluateAll(now)
	}
	for _, pb := range m.GetRecords() {
		rec, err := fromProto(pb)
		if err != nil {
			s.r.log.Warn("the registry tells of a task that can be none", zap.Error(err))
			continue
		}
		s.applyRecord(rec, now)
	}
	for _, gone := range m.GetGone() {
		if id, err := task.ParseID(gone); err == nil {
			delete(s.index.unnamedAt, id)
			s.release(id, now)
		}
	}
	if m.GetComplete() && !s.complete {
		s.streamCompleted(now)
	}
}

// streamCompleted lets go of what the new stream has not told.
func (s *state) streamCompleted(now time.Time) {
	s.complete = true
	for id, e := range s.index.entries {
		if e.stream != s.stream {
			s.release(id, now)
		}
	}
	for _, j := range s.jobs {
		j.attempts = 0 // what failed while the registry was away need not wait
	}
	s.evaluateAll(now)
	signal(s.r.announceNow)
	s.r.log.Info("the records of this instance are known", zap.Int("tasks", len(s.index.entries)))
}

// applyRecord takes a record, from the stream or from an answer, unless it is older
// than what is known.
func (s *state) applyRecord(rec record, now time.Time) {
	if e := s.index.entries[rec.id]; e != nil && e.stream == s.stream {
		if rec.revision <= e.revision {
			return
		}
		if rec.epoch < e.epoch {
			s.r.log.Warn("the registry tells an older epoch in a newer record; ignoring it", zap.String("task_id", string(rec.id)),
				zap.Int64("epoch", rec.epoch), zap.Int64("known_epoch", e.epoch))
			return
		}
	}
	if left, ok := s.index.unnamedAt[rec.id]; ok && rec.revision <= left {
		return
	}
	delete(s.index.unnamedAt, rec.id)
	standing := rec.standing(s.r.id)
	s.engine.Assign(rec.id, standing)
	if !rec.names(s.r.id) {
		s.removeUnnamed(rec, now)
		return
	}
	before := s.index.put(rec, s.stream)
	s.handover.recordChanged(before, rec, s.r.id, s.draining())
	s.evaluate(rec.id, now)
}

// removeUnnamed is for a record that names this instance no more. The engine has
// been told who owns the task, so that it does not go on as its owner.
func (s *state) removeUnnamed(rec record, now time.Time) {
	s.index.unnamedAt[rec.id] = rec.revision
	s.engine.Release(rec.id)
	s.remove(rec.id, now)
}

// release is for a task of which nothing is known but that no record names
// this instance for it.
func (s *state) release(id task.ID, now time.Time) {
	e := s.index.entries[id]
	if e == nil {
		return
	}
	if e.owner == s.r.id {
		// Another may own it now, which must be known if it is being fetched.
		s.markStale(id)
	}
	s.engine.Release(id)
	s.remove(id, now)
}

func (s *state) remove(id task.ID, now time.Time) {
	s.index.remove(id)
	s.handover.removed(id)
	s.evaluate(id, now)
}

// markStale has the record of a task asked for.
func (s *state) markStale(id task.ID) { s.jobOf(id).stale = true }

func (s *state) jobOf(id task.ID) *job {
	j := s.jobs[id]
	if j == nil {
		j = new(job)
		s.jobs[id] = j
	}
	return j
}

// drainInbox takes what the engine and the reporter have noted.
func (s *state) drainInbox(now time.Time) {
	lost, stale := s.r.inbox.drain()
	for _, id := range lost {
		s.jobOf(id).lost = true
		s.evaluate(id, now)
	}
	for _, id := range stale {
		s.markStale(id)
		s.evaluate(id, now)
	}
}
