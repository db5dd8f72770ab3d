// Package cache holds a copy of the store's members, drain marks and task records, from
// which the registry answers reads.
//
// Invariants:
//
//   - The content comes from the lists and the watch of the store. The writes of this
//     process are added, so that a caller can read what it has written.
//   - Of each key, the value with the highest revision counts, whatever the order in
//     which the watch and the writes deliver it.
//   - Revisions of two eras are not compared: a complete list of another era replaces
//     everything.
//   - While the store is unavailable the cache keeps its content.
//
// The package does not depend on how the store is implemented.
package cache

import (
	"slices"
	"sync"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Lease is a member and the lease that its key has in the store.
type Lease struct {
	Member   record.Member
	ID       int64 // id of the lease, 0 for none
	Revision int64 // modification revision of the key
}

// DrainMark is the mark of an operator that a member must drain.
type DrainMark struct {
	Key      record.MemberKey
	Revision int64
}

// Snapshot holds everything that the store contains at one revision.
type Snapshot struct {
	// Era identifies the store. It changes when the store is emptied or restored.
	Era string
	// Young is set if the store has just replaced another one. The members of the former
	// store are expected to send a heartbeat to it.
	Young      bool
	Revision   int64
	Members    []Lease
	DrainMarks []DrainMark
	Tasks      []record.Task
}

// Change is one event of the watch, or one write. Exactly one field besides Revision is
// set.
type Change struct {
	Revision      int64
	YoungEnded    bool // the store is no longer young
	Member        *Lease
	MemberGone    *record.MemberKey
	DrainMark     *record.MemberKey
	DrainMarkGone *record.MemberKey
	Task          *record.Task
	TaskGone      *string
}

// Cache is the copy of the store. It is safe for concurrent use.
type Cache struct {
	synced   chan struct{} // closed by the first Replace
	syncOnce sync.Once

	mu      sync.RWMutex // guards the fields below, and the marked fields of the watches
	era     string
	members table[record.MemberKey, Lease]
	// expected holds the members of the former store while the store is young.
	expected map[record.MemberKey]record.Member
	marks    table[record.MemberKey, DrainMark]
	tasks    table[string, record.Task]
	byMember memberIndex
	watches  map[record.MemberKey]map[*Watch]struct{}
	revision int64           // up to which the watch has delivered everything
	sorted   []record.Member // replaced, and not modified, with every change
	changed  chan struct{}   // closed and replaced whenever sorted is replaced
}

// New returns an empty cache.
func New() *Cache {
	return &Cache{
		synced:   make(chan struct{}),
		members:  make(table[record.MemberKey, Lease]),
		marks:    make(table[record.MemberKey, DrainMark]),
		tasks:    make(table[string, record.Task]),
		byMember: make(memberIndex),
		watches:  make(map[record.MemberKey]map[*Watch]struct{}),
		changed:  make(chan struct{}),
	}
}

// Synced returns a channel that is closed when the cache has been complete for the first
// time.
func (c *Cache) Synced() <-chan struct{} { return c.synced }

// Position returns the era of the store, which is empty before the first list, and the
// revision up to which the watch has delivered everything.
func (c *Cache) Position() (era string, revision int64) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.era, c.revision
}

// Member returns a member. If the member has a drain mark, its state is DRAINING.
func (c *Cache) Member(key record.MemberKey) (record.Member, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	lease, ok := c.members.get(key)
	if !ok {
		lease.Member, ok = c.expected[key]
	}
	return c.withMark(lease.Member), ok
}

// HasDrainMark reports whether an operator has marked a member to drain.
func (c *Cache) HasDrainMark(key record.MemberKey) bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	_, ok := c.marks.get(key)
	return ok
}

// Members returns all members, sorted, with the states that Member returns, and a channel
// that is closed when the list changes. The caller must not modify the list.
func (c *Cache) Members() ([]record.Member, <-chan struct{}) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.sorted, c.changed
}

// Counts returns the number of members of each role, and of task records.
func (c *Cache) Counts() (members map[record.Role]int, tasks int) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	members = make(map[record.Role]int)
	for _, m := range c.sorted {
		members[m.Role]++
	}
	return members, len(c.tasks)
}

// Replace replaces the content by a complete list. Writes of this process that are newer
// than the list stay, unless the list is of another era, or older than the content:
// then the store was reset. All watches end, because the changes between two lists are
// not known.
func (c *Cache) Replace(s Snapshot) {
	members := make(table[record.MemberKey, Lease], len(s.Members))
	for _, l := range s.Members {
		members[l.Member.Key()] = entry[Lease]{value: l, rev: l.Revision}
	}
	marks := make(table[record.MemberKey, DrainMark], len(s.DrainMarks))
	for _, m := range s.DrainMarks {
		marks[m.Key] = entry[DrainMark]{value: m, rev: m.Revision}
	}
	tasks := make(table[string, record.Task], len(s.Tasks))
	for _, t := range s.Tasks {
		tasks[t.ID] = entry[record.Task]{value: t, rev: t.Revision}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.Era == c.era && s.Revision >= c.revision {
		c.members.copyNewer(members, s.Revision)
		c.marks.copyNewer(marks, s.Revision)
		c.tasks.copyNewer(tasks, s.Revision)
	}
	c.setExpected(s)
	c.era, c.members, c.marks, c.tasks, c.revision = s.Era, members, marks, tasks, s.Revision
	c.byMember = make(memberIndex)
	for id, e := range tasks {
		if !e.deleted {
			c.byMember.add(id, e.value)
		}
	}
	c.endWatches()
	c.updateSorted()
	c.syncOnce.Do(func() { close(c.synced) })
}

// setExpected keeps the current members as expected ones if the snapshot is of a young
// store that has replaced the current one. The caller holds mu.
func (c *Cache) setExpected(s Snapshot) {
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

// Apply applies events of the watch. They must be in the store's order.
func (c *Cache) Apply(changes []Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	membersChanged := false
	for _, change := range changes {
		switch {
		case change.Member != nil:
			c.members.applyEvent(change.Member.Member.Key(), entry[Lease]{value: *change.Member, rev: change.Revision})
		case change.MemberGone != nil:
			delete(c.expected, *change.MemberGone)
			c.members.applyEvent(*change.MemberGone, entry[Lease]{rev: change.Revision, deleted: true})
		case change.DrainMark != nil:
			c.marks.applyEvent(*change.DrainMark, entry[DrainMark]{value: DrainMark{*change.DrainMark, change.Revision}, rev: change.Revision})
		case change.DrainMarkGone != nil:
			c.marks.applyEvent(*change.DrainMarkGone, entry[DrainMark]{rev: change.Revision, deleted: true})
		case change.Task != nil:
			c.setTask(change.Task.ID, func() {
				c.tasks.applyEvent(change.Task.ID, entry[record.Task]{value: *change.Task, rev: change.Revision})
			})
		case change.YoungEnded:
			c.expected = nil
		case change.TaskGone != nil:
			c.setTask(*change.TaskGone, func() {
				c.tasks.applyEvent(*change.TaskGone, entry[record.Task]{rev: change.Revision, deleted: true})
			})
		}
		membersChanged = membersChanged || change.Task == nil && change.TaskGone == nil
		c.revision = max(c.revision, change.Revision)
	}
	if membersChanged {
		c.updateSorted()
	}
}

// ApplyWrite applies one write of this process. era is that of the store that was written
// to. A write to another era than the cache's is ignored: the next list contains it.
func (c *Cache) ApplyWrite(era string, change Change) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.era != "" && era != c.era {
		return
	}
	membersChanged := false
	switch {
	case change.Member != nil:
		membersChanged = c.members.applyWrite(change.Member.Member.Key(), entry[Lease]{value: *change.Member, rev: change.Revision}, c.revision)
	case change.MemberGone != nil:
		delete(c.expected, *change.MemberGone)
		membersChanged = c.members.applyWrite(*change.MemberGone, entry[Lease]{rev: change.Revision, deleted: true}, c.revision)
	case change.DrainMark != nil:
		mark := DrainMark{*change.DrainMark, change.Revision}
		membersChanged = c.marks.applyWrite(*change.DrainMark, entry[DrainMark]{value: mark, rev: change.Revision}, c.revision)
	case change.DrainMarkGone != nil:
		membersChanged = c.marks.applyWrite(*change.DrainMarkGone, entry[DrainMark]{rev: change.Revision, deleted: true}, c.revision)
	case change.Task != nil:
		c.setTask(change.Task.ID, func() {
			c.tasks.applyWrite(change.Task.ID, entry[record.Task]{value: *change.Task, rev: change.Revision}, c.revision)
		})
	case change.TaskGone != nil:
		c.setTask(*change.TaskGone, func() {
			c.tasks.applyWrite(*change.TaskGone, entry[record.Task]{rev: change.Revision, deleted: true}, c.revision)
		})
	}
	if membersChanged {
		c.updateSorted()
	}
}

// withMark returns a member with the state that its drain mark gives it. The caller holds
// mu.
func (c *Cache) withMark(m record.Member) record.Member {
	if _, marked := c.marks.get(m.Key()); marked {
		m.State = record.StateDraining
	}
	return m
}

// updateSorted computes the sorted list of members. If it has changed, updateSorted
// replaces it and closes the channel of the old one. The renewal of a member under
// another lease does not change the list. The caller holds mu.
func (c *Cache) updateSorted() {
	sorted := make([]record.Member, 0, len(c.members))
	for _, e := range c.members {
		if !e.deleted {
			sorted = append(sorted, c.withMark(e.value.Member))
		}
	}
	for key, m := range c.expected {
		if _, ok := c.members.get(key); !ok {
			sorted = append(sorted, c.withMark(m))
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
