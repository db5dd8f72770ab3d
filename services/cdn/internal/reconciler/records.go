package reconciler

import (
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// streamStarted prepares for the messages of a new stream.
func (s *state) streamStarted() {
	s.stream++
	s.complete = false
	clear(s.index.unnamedAt)
}

// applyMessage applies a message of the stream.
func (s *state) applyMessage(m *registryv1.WatchTasksResponse) {
	now := time.Now()
	if n := int(m.GetReplicas()); n > 0 && n != s.wantedCopies {
		s.wantedCopies = n
		s.evaluateAll(now)
	}
	for _, pb := range m.GetRecords() {
		rec, err := fromProto(pb)
		if err != nil {
			s.r.log.Warn("ignoring an invalid record from the registry", zap.Error(err))
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

// streamCompleted releases the tasks whose records the new stream has not sent, and
// announces the copies on disk.
func (s *state) streamCompleted(now time.Time) {
	s.complete = true
	for id, e := range s.index.entries {
		if e.stream != s.stream {
			s.release(id, now)
		}
	}
	for _, j := range s.jobs {
		j.attempts = 0 // calls that failed during the outage do not delay the next ones
	}
	s.evaluateAll(now)
	signal(s.r.announceNow)
	s.r.log.Info("received all records that name this CDN", zap.Int("tasks", len(s.index.entries)))
}

// applyRecord passes a record from the stream or from a call to the engine, unless it is
// older than the known one. The first record that a new stream sends of a task always
// counts as newer, because the store may have lost its revisions.
func (s *state) applyRecord(rec record, now time.Time) {
	if e := s.index.entries[rec.id]; e != nil && e.stream == s.stream {
		if rec.revision <= e.revision {
			return
		}
		if rec.epoch < e.epoch {
			s.r.log.Warn("ignoring a record with a newer revision but an older epoch", zap.String("task_id", string(rec.id)),
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

// removeUnnamed releases a task whose record names this instance no longer. The caller
// has assigned the record to the engine before, so that the engine stops an owner.
func (s *state) removeUnnamed(rec record, now time.Time) {
	s.index.unnamedAt[rec.id] = rec.revision
	s.engine.Release(rec.id)
	s.remove(rec.id, now)
}

// release releases a task whose record the registry has not sent, because the record
// does not name this instance.
func (s *state) release(id task.ID, now time.Time) {
	e := s.index.entries[id]
	if e == nil {
		return
	}
	if e.owner == s.r.id {
		// The engine may be fetching the task and needs the record of the new owner.
		s.markStale(id)
	}
	s.engine.Release(id)
	s.remove(id, now)
}

// remove removes the record of a task.
func (s *state) remove(id task.ID, now time.Time) {
	s.index.remove(id)
	s.handover.removed(id)
	s.evaluate(id, now)
}

// markStale requests a read of the record of a task.
func (s *state) markStale(id task.ID) { s.jobOf(id).stale = true }

// jobOf returns the job of a task and creates it if there is none.
func (s *state) jobOf(id task.ID) *job {
	j := s.jobs[id]
	if j == nil {
		j = new(job)
		s.jobs[id] = j
	}
	return j
}

// drainInbox processes the tasks that Lost and Stale have queued.
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
