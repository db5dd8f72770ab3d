package reconciler

import "github.com/supernode-ha/supernode/services/cdn/internal/task"

// entry is a record that names this instance.
type entry struct {
	record
	// stream is the number of the stream that told it last.
	stream uint64
}

// index is the records that name this instance, found by task and by every CDN
// that they name, so that a change of members costs what it concerns.
type index struct {
	entries    map[task.ID]*entry
	byCDN      map[string]map[task.ID]struct{}
	ownedCount map[string]int // tasks by owner
	// unnamedAt is the revision at which a task was seen to name this instance no
	// more, ahead of the stream, which may still tell older records.
	unnamedAt map[task.ID]int64
}

func newIndex() *index {
	return &index{
		entries: make(map[task.ID]*entry), byCDN: make(map[string]map[task.ID]struct{}),
		ownedCount: make(map[string]int), unnamedAt: make(map[task.ID]int64),
	}
}

// put replaces the record of a task and gives back the one before, if any.
func (ix *index) put(rec record, stream uint64) (before record) {
	e := ix.entries[rec.id]
	if e == nil {
		e = new(entry)
		ix.entries[rec.id] = e
	}
	before = e.record
	if before.id != "" {
		ix.unindex(before)
	}
	e.record, e.stream = rec, stream
	ix.ownedCount[rec.owner]++
	for _, cdn := range rec.copies() {
		tasks := ix.byCDN[cdn]
		if tasks == nil {
			tasks = make(map[task.ID]struct{})
			ix.byCDN[cdn] = tasks
		}
		tasks[rec.id] = struct{}{}
	}
	return before
}

func (ix *index) remove(id task.ID) {
	if e := ix.entries[id]; e != nil {
		ix.unindex(e.record)
		delete(ix.entries, id)
	}
}

func (ix *index) unindex(rec record) {
	if ix.ownedCount[rec.owner]--; ix.ownedCount[rec.owner] == 0 {
		delete(ix.ownedCount, rec.owner)
	}
	for _, cdn := range rec.copies() {
		delete(ix.byCDN[cdn], rec.id)
		if len(ix.byCDN[cdn]) == 0 {
			delete(ix.byCDN, cdn)
		}
	}
}
