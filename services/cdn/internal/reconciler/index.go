package reconciler

import "github.com/supernode-ha/supernode/services/cdn/internal/task"

// entry is a record that names this instance.
type entry struct {
	record
	// stream is the number of the stream that sent the record last.
	stream uint64
}

// index holds the records that name this instance. They are indexed by task and by each
// CDN that they name, so that a change of a member takes time only for its tasks.
type index struct {
	entries    map[task.ID]*entry
	byCDN      map[string]map[task.ID]struct{}
	ownedCount map[string]int // number of tasks by owner
	// unnamedAt holds the revision of a record that a call returned and that does not
	// name this instance. The stream may still deliver older revisions.
	unnamedAt map[task.ID]int64
}

func newIndex() *index {
	return &index{
		entries: make(map[task.ID]*entry), byCDN: make(map[string]map[task.ID]struct{}),
		ownedCount: make(map[string]int), unnamedAt: make(map[task.ID]int64),
	}
}

// put stores the record of a task and returns the previous one, or the zero record.
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
