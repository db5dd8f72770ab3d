package keeper

import (
	"time"

	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

// begun is told that a new stream of records has begun.
func (d *desk) begun() {
	d.stream++
	d.complete = false
	clear(d.book.left)
}

// told takes a message of the stream.
func (d *desk) told(m *registryv1.WatchTasksResponse) {
	now := time.Now()
	if n := int(m.GetReplicas()); n > 0 && n != d.want {
		d.want = n
		d.checkAll(now)
	}
	for _, r := range m.GetRecords() {
		rec, err := fromProto(r)
		if err != nil {
			d.k.log.Warn("the registry tells of a task that can be none", zap.Error(err))
			continue
		}
		d.take(rec, now)
	}
	for _, s := range m.GetGone() {
		if id, err := task.ParseID(s); err == nil {
			delete(d.book.left, id)
			d.release(id, now)
		}
	}
	if m.GetComplete() && !d.complete {
		d.completed(now)
	}
}

// completed lets go of what the new stream has not told.
func (d *desk) completed(now time.Time) {
	d.complete = true
	for id, e := range d.book.entries {
		if e.stream != d.stream {
			d.release(id, now)
		}
	}
	for _, j := range d.jobs {
		j.tries = 0 // what failed while the registry was away need not wait
	}
	d.checkAll(now)
	wake(d.k.announce)
	d.k.log.Info("the records of this instance are known", zap.Int("tasks", len(d.book.entries)))
}

// take takes a record, from the stream or from an answer, unless it is older
// than what is known.
func (d *desk) take(rec record, now time.Time) {
	if e := d.book.entries[rec.id]; e != nil && e.stream == d.stream {
		if rec.revision <= e.revision {
			return
		}
		if rec.epoch < e.epoch {
			d.k.log.Warn("the registry tells an older epoch in a newer record; ignoring it", zap.String("task_id", string(rec.id)),
				zap.Int64("epoch", rec.epoch), zap.Int64("known_epoch", e.epoch))
			return
		}
	}
	if left, ok := d.book.left[rec.id]; ok && rec.revision <= left {
		return
	}
	delete(d.book.left, rec.id)
	standing := rec.standing(d.k.id)
	d.engine.Assign(rec.id, standing)
	if !rec.names(d.k.id) {
		d.dismiss(rec, now)
		return
	}
	before := d.book.put(rec, d.stream)
	d.handover.owned(before, rec, d.k.id, d.moving())
	d.check(rec.id, now)
}

// dismiss is for a record that names this instance no more. The engine has
// been told who owns the task, so that it does not go on as its owner.
func (d *desk) dismiss(rec record, now time.Time) {
	d.book.left[rec.id] = rec.revision
	d.engine.Release(rec.id)
	d.drop(rec.id, now)
}

// release is for a task of which nothing is known but that no record names
// this instance for it.
func (d *desk) release(id task.ID, now time.Time) {
	e := d.book.entries[id]
	if e == nil {
		return
	}
	if e.owner == d.k.id {
		// Another may own it now, which must be known if it is being fetched.
		d.outdated(id)
	}
	d.engine.Release(id)
	d.drop(id, now)
}

func (d *desk) drop(id task.ID, now time.Time) {
	d.book.remove(id)
	d.handover.gone(id)
	d.check(id, now)
}

// outdated has the record of a task asked for.
func (d *desk) outdated(id task.ID) { d.jobFor(id).stale = true }

func (d *desk) jobFor(id task.ID) *job {
	j := d.jobs[id]
	if j == nil {
		j = new(job)
		d.jobs[id] = j
	}
	return j
}

// hear takes what the engine and the reporter have noted.
func (d *desk) hear(now time.Time) {
	lost, stale := d.k.notes.take()
	for _, id := range lost {
		d.jobFor(id).lost = true
		d.check(id, now)
	}
	for _, id := range stale {
		d.outdated(id)
		d.check(id, now)
	}
}
