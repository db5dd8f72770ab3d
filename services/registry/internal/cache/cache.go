// Package cache is the copy of the store that the registry answers from. One
// writer, the store's watch, keeps it; writes of this process are fed to it as
// well, so that a caller reads what it wrote. It knows nothing of the store
// itself, and what was last seen stays when the store falls silent.
package cache

import (
	"slices"
	"sync"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Lease is a member as it stands in the store.
type Lease struct {
	Member   record.Member
	ID       int64 // the store's lease, 0 for none
	Revision int64
}

// Mark is an operator's wish that a member drains.
type Mark struct {
	Key      record.MemberKey
	Revision int64
}

// Snapshot is everything in the store at one revision.
type Snapshot struct {
	// Era tells the store from one that was emptied or restored: revisions of
	// two eras must not be compared.
	Era string
	// Young says that the store has just taken another's place: who was a
	// member of that is expected to announce himself.
	Young    bool
	Revision int64
	Members  []Lease
	Marks    []Mark
	Tasks    []record.Task
}

// Change is one event of the watch: exactly one of the others is set.
type Change struct {
	Revision   int64
	Grown      bool // the store is young no more
	Member     *Lease
	MemberGone *record.MemberKey
	Mark       *record.MemberKey
	MarkGone   *record.MemberKey
	Task       *record.Task
	TaskGone   *string
}

// Cache is the copy. Use New.
type Cache struct {
	synced   chan struct{} // closed with the first Replace
	syncOnce sync.Once

	mu      sync.RWMutex // guards everything below, and the watches
	era     string
	members table[record.MemberKey, Lease]
	// expected are members of the store before this one, while it is young.
	expected map[record.MemberKey]record.Member
	marks    table[record.MemberKey, Mark]
	tasks    table[string, record.Task]
	named    index
	watches  map[record.MemberKey]map[*Watch]struct{}
	seen     int64           // revision up to which the watch has told everything
	sorted   []record.Member // never changed in place, replaced with every change
	changed  chan struct{}   // closed and replaced whenever sorted is
}

// New makes an empty copy that is not synced.
func New() *Cache {
	return &Cache{
		synced:  make(chan struct{}),
		members: make(table[record.MemberKey, Lease]),
		marks:   make(table[record.MemberKey, Mark]),
		tasks:   make(table[string, record.Task]),
		named:   make(index),
		watches: make(map[record.MemberKey]map[*Watch]struct{}),
		changed: make(chan struct{}),
	}
}

// Synced is closed when the copy has been complete once.
func (c *Cache) Synced() <-chan struct{} { return c.synced }

// Seen is the era of the store that was read, empty for none, and the revision
// up to which the watch has told everything.
func (c *Cache) Seen() (era string, revision int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.era, c.seen
}

// Member gives a member as it counts: one that is marked is DRAINING.
func (c *Cache) Member(key record.MemberKey) (record.Member, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	lease, ok := c.members.get(key)
	if !ok {
		lease.Member, ok = c.expected[key]
	}
	return c.effective(lease.Member), ok
}

// Marked tells whether an operator has marked a member.
func (c *Cache) Marked(key record.MemberKey) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.marks.get(key)
	return ok
}

// Members gives all members as they count, sorted, and a channel that is closed
// when that list is old. The list is shared: it must not be changed.
func (c *Cache) Members() ([]record.Member, <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sorted, c.changed
}

// Counts gives the number of members of every role, and of task records.
func (c *Cache) Counts() (members map[record.Role]int, tasks int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	members = make(map[record.Role]int)
	for _, m := range c.sorted {
		members[m.Role]++
	}
	return members, len(c.tasks)
}

// Replace takes a complete list. One of another era, or older than what was
// seen, means that the store was reset: then nothing of before counts. All
// watches end, because nobody knows what happened between two lists.
func (c *Cache) Replace(s Snapshot) {
	members := make(table[record.MemberKey, Lease], len(s.Members))
	for _, l := range s.Members {
		members[l.Member.Key()] = entry[Lease]{value: l, rev: l.Revision}
	}
	marks := make(table[record.MemberKey, Mark], len(s.Marks))
	for _, m := range s.Marks {
		marks[m.Key] = entry[Mark]{value: m, rev: m.Revision}
	}
	tasks := make(table[string, record.Task], len(s.Tasks))
	for _, t := range s.Tasks {
		tasks[t.ID] = entry[record.Task]{value: t, rev: t.Revision}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Era == c.era && s.Revision >= c.seen {
		members = c.members.replaced(members, s.Revision)
		marks = c.marks.replaced(marks, s.Revision)
		tasks = c.tasks.replaced(tasks, s.Revision)
	}
	c.expect(s)
	c.era, c.members, c.marks, c.tasks, c.seen = s.Era, members, marks, tasks, s.Revision
	c.named = make(index)
	for id, e := range tasks {
		if !e.gone {
			c.named.add(id, e.value)
		}
	}
	c.endWatches()
	c.resort()
	c.syncOnce.Do(func() { close(c.synced) })
}

// expect keeps the members of a store whose place another has taken. The caller
// holds mu.
func (c *Cache) expect(s Snapshot) {
	switch {
	case !s.Young:
		c.expected = nil
	case s.Era != c.era:
		expected := make(map[record.MemberKey]record.Member, len(c.sorted))
		for _, m := range c.sorted {
			expected[m.Key()] = m
		}
		c.expected = expected
	}
}

// Apply takes events of the watch, in the store's order.
func (c *Cache) Apply(changes []Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	ofMembers := false
	for _, change := range changes {
		switch {
		case change.Member != nil:
			c.members.watched(change.Member.Member.Key(), entry[Lease]{value: *change.Member, rev: change.Revision})
		case change.MemberGone != nil:
			delete(c.expected, *change.MemberGone)
			c.members.watched(*change.MemberGone, entry[Lease]{rev: change.Revision, gone: true})
		case change.Mark != nil:
			c.marks.watched(*change.Mark, entry[Mark]{value: Mark{*change.Mark, change.Revision}, rev: change.Revision})
		case change.MarkGone != nil:
			c.marks.watched(*change.MarkGone, entry[Mark]{rev: change.Revision, gone: true})
		case change.Task != nil:
			c.setTask(change.Task.ID, func() { c.tasks.watched(change.Task.ID, entry[record.Task]{value: *change.Task, rev: change.Revision}) })
		case change.Grown:
			c.expected = nil
		case change.TaskGone != nil:
			c.setTask(*change.TaskGone, func() { c.tasks.watched(*change.TaskGone, entry[record.Task]{rev: change.Revision, gone: true}) })
		}
		ofMembers = ofMembers || change.Task == nil && change.TaskGone == nil
		c.seen = max(c.seen, change.Revision)
	}
	if ofMembers {
		c.resort()
	}
}

// Feed takes one write of this process, made in an era of the store. One of
// another era than the copy's is left to the next list.
func (c *Cache) Feed(era string, change Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.era != "" && era != c.era {
		return
	}
	news := false
	switch {
	case change.Member != nil:
		news = c.members.fed(change.Member.Member.Key(), entry[Lease]{value: *change.Member, rev: change.Revision}, c.seen)
	case change.MemberGone != nil:
		delete(c.expected, *change.MemberGone)
		news = c.members.fed(*change.MemberGone, entry[Lease]{rev: change.Revision, gone: true}, c.seen)
	case change.Mark != nil:
		news = c.marks.fed(*change.Mark, entry[Mark]{value: Mark{*change.Mark, change.Revision}, rev: change.Revision}, c.seen)
	case change.MarkGone != nil:
		news = c.marks.fed(*change.MarkGone, entry[Mark]{rev: change.Revision, gone: true}, c.seen)
	case change.Task != nil:
		c.setTask(change.Task.ID, func() {
			c.tasks.fed(change.Task.ID, entry[record.Task]{value: *change.Task, rev: change.Revision}, c.seen)
		})
	case change.TaskGone != nil:
		c.setTask(*change.TaskGone, func() { c.tasks.fed(*change.TaskGone, entry[record.Task]{rev: change.Revision, gone: true}, c.seen) })
	}
	if news {
		c.resort()
	}
}

// effective gives a member with its mark. The caller holds mu.
func (c *Cache) effective(m record.Member) record.Member {
	if _, marked := c.marks.get(m.Key()); marked {
		m.State = record.StateDraining
	}
	return m
}

// resort renews the sorted list and wakes who waits, if a member came, went
// or changed; a mere renewal under another lease is no news. The caller holds mu.
func (c *Cache) resort() {
	sorted := make([]record.Member, 0, len(c.members))
	for _, e := range c.members {
		if !e.gone {
			sorted = append(sorted, c.effective(e.value.Member))
		}
	}
	for key, m := range c.expected {
		if _, there := c.members.get(key); !there {
			sorted = append(sorted, c.effective(m))
		}
	}
	slices.SortFunc(sorted, record.Compare)
	if slices.Equal(sorted, c.sorted) {
		return
	}
	c.sorted = sorted
	close(c.changed)
	c.changed = make(chan struct{})
}
