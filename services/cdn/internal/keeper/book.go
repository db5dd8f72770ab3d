package keeper

import "github.com/supernode-ha/supernode/services/cdn/internal/task"

// entry is a record that names this instance.
type entry struct {
	record
	// stream is the number of the stream that told it last.
	stream uint64
}

// book is the records that name this instance, found by task and by every CDN
// that they name, so that a change of members costs what it concerns.
type book struct {
	entries map[task.ID]*entry
	named   map[string]map[task.ID]struct{}
	owned   map[string]int // tasks by owner
	// left is the revision at which a task was seen to name this instance no
	// more, ahead of the stream, which may still tell older records.
	left map[task.ID]int64
}

func newBook() *book {
	return &book{
		entries: make(map[task.ID]*entry), named: make(map[string]map[task.ID]struct{}),
		owned: make(map[string]int), left: make(map[task.ID]int64),
	}
}

// put replaces the record of a task and gives back the one before, if any.
func (b *book) put(rec record, stream uint64) (before record) {
	e := b.entries[rec.id]
	if e == nil {
		e = new(entry)
		b.entries[rec.id] = e
	}
	before = e.record
	if before.id != "" {
		b.unindex(before)
	}
	e.record, e.stream = rec, stream
	b.owned[rec.owner]++
	for _, cdn := range rec.copies() {
		tasks := b.named[cdn]
		if tasks == nil {
			tasks = make(map[task.ID]struct{})
			b.named[cdn] = tasks
		}
		tasks[rec.id] = struct{}{}
	}
	return before
}

func (b *book) remove(id task.ID) {
	if e := b.entries[id]; e != nil {
		b.unindex(e.record)
		delete(b.entries, id)
	}
}

func (b *book) unindex(rec record) {
	if b.owned[rec.owner]--; b.owned[rec.owner] == 0 {
		delete(b.owned, rec.owner)
	}
	for _, cdn := range rec.copies() {
		delete(b.named[cdn], rec.id)
		if len(b.named[cdn]) == 0 {
			delete(b.named, cdn)
		}
	}
}
