package cache

import (
	"maps"
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Watch follows the records that name one member. What it has not taken yet
// is remembered by task id, not by change: a slow reader is behind, costs no
// more than there are tasks, and loses nothing but what was overtaken.
type Watch struct {
	cache *Cache
	key   record.MemberKey
	news  chan struct{} // holds a token while there is something to take
	ended chan struct{} // closed when the copy was listed anew

	// The copy's lock guards these.
	first []string // of what there was at the beginning, what has not been told
	dirty map[string]struct{}
	told  map[string]struct{} // what the reader believes to name the member
	whole bool                // everything has been told once
}

// Batch is a part of what names the member, or changes.
type Batch struct {
	Records []record.Task
	// Gone do not name the member any more.
	Gone []string
	// Complete tells, once, that everything there was has been told.
	Complete bool
}

// Watch begins to follow the records that name a member. It is to be closed.
func (c *Cache) Watch(key record.MemberKey) *Watch {
	w := &Watch{
		cache: c, key: key, news: make(chan struct{}, 1), ended: make(chan struct{}),
		dirty: make(map[string]struct{}), told: make(map[string]struct{}),
	}
	w.news <- struct{}{}
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.named[key]; h != nil {
		w.first = slices.Collect(maps.Keys(h.tasks))
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

// News gives a token when there is something to take.
func (w *Watch) News() <-chan struct{} { return w.news }

// Ended is closed when the watch has no continuation: it is to begin anew.
func (w *Watch) Ended() <-chan struct{} { return w.ended }

// maxBytes keeps one answer well below what gRPC takes, however long the URLs.
const maxBytes = 1 << 20

// weight is about how many bytes a record has on the wire.
func weight(t record.Task) int {
	n := 300 + len(t.URL)
	if t.Source != nil {
		n += len(t.Source.ETag) + len(t.Source.LastModified)
	}
	for _, id := range t.Copies() {
		n += len(id) + 2
	}
	return n
}

// Take gives what there is, at most limit records and those that are gone.
func (w *Watch) Take(limit int) Batch {
	w.cache.mu.Lock()
	defer w.cache.mu.Unlock()
	var b Batch
	bytes := 0
	full := func() bool { return len(b.Records)+len(b.Gone) == limit || bytes >= maxBytes }
	if !w.whole {
		for len(w.first) > 0 && !full() {
			bytes += w.tell(&b, w.first[0])
			w.first = w.first[1:]
		}
		w.whole = len(w.first) == 0
		b.Complete = w.whole
	} else {
		for id := range w.dirty {
			if full() {
				break
			}
			delete(w.dirty, id)
			bytes += w.tell(&b, id)
		}
	}
	if !w.whole || len(w.dirty) > 0 {
		w.poke()
	}
	return b
}

// tell adds a task as it stands now, and says how much that is. The caller
// holds the copy's lock.
func (w *Watch) tell(b *Batch, id string) int {
	task, ok := w.cache.tasks.get(id)
	_, told := w.told[id]
	switch {
	case ok && slices.Contains(names(task), w.key):
		w.told[id] = struct{}{}
		b.Records = append(b.Records, task)
		return weight(task)
	case told:
		delete(w.told, id)
		b.Gone = append(b.Gone, id)
	}
	return len(id)
}

func (w *Watch) poke() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// wake tells the watches of all whom a record names. The caller holds mu.
func (c *Cache) wake(id string, t record.Task) {
	for _, key := range names(t) {
		for w := range c.watches[key] {
			w.dirty[id] = struct{}{}
			w.poke()
		}
	}
}

// endWatches ends all watches. The caller holds mu.
func (c *Cache) endWatches() {
	for _, of := range c.watches {
		for w := range of {
			close(w.ended)
		}
	}
	clear(c.watches)
}
