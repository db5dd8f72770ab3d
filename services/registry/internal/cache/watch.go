package cache

import (
	"maps"
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Watch follows the records that name one member. It stores the ids of changed tasks
// and not the changes. So a slow receiver costs no more memory than there are tasks,
// and misses only states that a later one has replaced.
type Watch struct {
	cache *Cache
	key   record.MemberKey
	ready chan struct{} // has an element while Take has something to return
	ended chan struct{} // closed when the content of the cache is replaced

	// The cache's mu guards the fields below.
	initial  []string            // of the records at the beginning, those that were not sent yet
	changed  map[string]struct{} // records that have changed since
	sent     map[string]struct{} // records that were sent and name the member
	complete bool                // all of initial was sent
}

// Batch is a part of the records that name the member, or of their changes.
type Batch struct {
	Records []record.Task
	// Gone are the tasks that do not name the member any more.
	Gone []string
	// Complete is set once, in the batch with which all records that existed at the
	// beginning have been returned.
	Complete bool
}

// Watch starts to follow the records that name a member. The caller must close the
// watch.
func (c *Cache) Watch(key record.MemberKey) *Watch {
	w := &Watch{
		cache: c, key: key, ready: make(chan struct{}, 1), ended: make(chan struct{}),
		changed: make(map[string]struct{}), sent: make(map[string]struct{}),
	}
	w.ready <- struct{}{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if m := c.byMember[key]; m != nil {
		w.initial = slices.Collect(maps.Keys(m.tasks))
	}
	if c.watches[key] == nil {
		c.watches[key] = make(map[*Watch]struct{})
	}
	c.watches[key][w] = struct{}{}
	return w
}

// Close ends the watch.
func (w *Watch) Close() {
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	delete(w.cache.watches[w.key], w)
	if len(w.cache.watches[w.key]) == 0 {
		delete(w.cache.watches, w.key)
	}
}

// Ready returns a channel that has an element when Take has something to return.
func (w *Watch) Ready() <-chan struct{} { return w.ready }

// Ended returns a channel that is closed when the content of the cache is replaced.
// The watch gets no further changes then, and the caller must start a new one.
func (w *Watch) Ended() <-chan struct{} { return w.ended }

// maxBytes is the size, in bytes, at which a batch or a page ends. It keeps messages
// well below the limit of gRPC, however long the URLs are.
const maxBytes = 1 << 20

// approxSize returns the approximate size of a record in a message, in bytes.
func approxSize(t record.Task) int {
	n := 300 + len(t.URL)
	if t.Source != nil {
		n += len(t.Source.ETag) + len(t.Source.LastModified)
	}
	for _, id := range t.Copies() {
		n += len(id) + 2
	}
	return n
}

// Take returns the next batch. It has at most limit entries in total.
func (w *Watch) Take(limit int) Batch {
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	var b Batch
	bytes := 0
	full := func() bool { return len(b.Records)+len(b.Gone) == limit || bytes >= maxBytes }
	if !w.complete {
		for len(w.initial) > 0 && !full() {
			bytes += w.add(&b, w.initial[0])
			w.initial = w.initial[1:]
		}
		w.complete = len(w.initial) == 0
		b.Complete = w.complete
	} else {
		for id := range w.changed {
			if full() {
				break
			}
			delete(w.changed, id)
			bytes += w.add(&b, id)
		}
	}
	if !w.complete || len(w.changed) > 0 {
		w.signal()
	}
	return b
}

// add adds the current state of a task to the batch and returns its approximate size
// in bytes. The caller holds the cache's mu.
func (w *Watch) add(b *Batch, id string) int {
	task, ok := w.cache.tasks.get(id)
	_, sent := w.sent[id]
	switch {
	case ok && slices.Contains(membersOf(task), w.key):
		w.sent[id] = struct{}{}
		b.Records = append(b.Records, task)
		return approxSize(task)
	case sent:
		delete(w.sent, id)
		b.Gone = append(b.Gone, id)
	}
	return len(id)
}

// signal makes Ready fire.
func (w *Watch) signal() {
	select {
	case w.ready <- struct{}{}:
	default:
	}
}

// notifyWatches records a change of a task in the watches of all members that its
// record t names. The caller holds mu.
func (c *Cache) notifyWatches(id string, t record.Task) {
	for _, key := range membersOf(t) {
		for w := range c.watches[key] {
			w.changed[id] = struct{}{}
			w.signal()
		}
	}
}

// endWatches ends all watches. The caller holds mu.
func (c *Cache) endWatches() {
	for _, watches := range c.watches {
		for w := range watches {
			close(w.ended)
		}
	}
	clear(c.watches)
}
