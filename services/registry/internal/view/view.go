// Package view is the copy of the store that the registry answers from. One
// writer, the store's watch, keeps it; writes of this process are fed to it as
// well, so that a caller reads what it wrote. It knows nothing of the store
// itself, and what was last seen stays when the store falls silent.
package view

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

// View is the copy. Use New.
type View struct {
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
func New() *View {
	return &View{
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
func (v *View) Synced() <-chan struct{} { return v.synced }

// Seen is the era of the store that was read, empty for none, and the revision
// up to which the watch has told everything.
func (v *View) Seen() (era string, revision int64) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.era, v.seen
}

// Member gives a member as it counts: one that is marked is DRAINING.
func (v *View) Member(key record.MemberKey) (record.Member, bool) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	lease, ok := v.members.get(key)
	if !ok {
		lease.Member, ok = v.expected[key]
	}
	return v.effective(lease.Member), ok
}

// Marked tells whether an operator has marked a member.
func (v *View) Marked(key record.MemberKey) bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	_, ok := v.marks.get(key)
	return ok
}

// Members gives all members as they count, sorted, and a channel that is closed
// when that list is old. The list is shared: it must not be changed.
func (v *View) Members() ([]record.Member, <-chan struct{}) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.sorted, v.changed
}

// Counts gives the number of members of every role, and of task records.
func (v *View) Counts() (members map[record.Role]int, tasks int) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	members = make(map[record.Role]int)
	for _, m := range v.sorted {
		members[m.Role]++
	}
	return members, len(v.tasks)
}

// Replace takes a complete list. One of another era, or older than what was
// seen, means that the store was reset: then nothing of before counts. All
// watches end, because nobody knows what happened between two lists.
func (v *View) Replace(s Snapshot) {
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
	v.mu.Lock()
	defer v.mu.Unlock()
	if s.Era == v.era && s.Revision >= v.seen {
		members = v.members.replaced(members, s.Revision)
		marks = v.marks.replaced(marks, s.Revision)
		tasks = v.tasks.replaced(tasks, s.Revision)
	}
	v.expect(s)
	v.era, v.members, v.marks, v.tasks, v.seen = s.Era, members, marks, tasks, s.Revision
	v.named = make(index)
	for id, e := range tasks {
		if !e.gone {
			v.named.add(id, e.value)
		}
	}
	v.endWatches()
	v.resort()
	v.syncOnce.Do(func() { close(v.synced) })
}

// expect keeps the members of a store whose place another has taken. The caller
// holds mu.
func (v *View) expect(s Snapshot) {
	switch {
	case !s.Young:
		v.expected = nil
	case s.Era != v.era:
		expected := make(map[record.MemberKey]record.Member, len(v.sorted))
		for _, m := range v.sorted {
			expected[m.Key()] = m
		}
		v.expected = expected
	}
}

// Apply takes events of the watch, in the store's order.
func (v *View) Apply(changes []Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	ofMembers := false
	for _, c := range changes {
		switch {
		case c.Member != nil:
			v.members.watched(c.Member.Member.Key(), entry[Lease]{value: *c.Member, rev: c.Revision})
		case c.MemberGone != nil:
			delete(v.expected, *c.MemberGone)
			v.members.watched(*c.MemberGone, entry[Lease]{rev: c.Revision, gone: true})
		case c.Mark != nil:
			v.marks.watched(*c.Mark, entry[Mark]{value: Mark{*c.Mark, c.Revision}, rev: c.Revision})
		case c.MarkGone != nil:
			v.marks.watched(*c.MarkGone, entry[Mark]{rev: c.Revision, gone: true})
		case c.Task != nil:
			v.setTask(c.Task.ID, func() { v.tasks.watched(c.Task.ID, entry[record.Task]{value: *c.Task, rev: c.Revision}) })
		case c.Grown:
			v.expected = nil
		case c.TaskGone != nil:
			v.setTask(*c.TaskGone, func() { v.tasks.watched(*c.TaskGone, entry[record.Task]{rev: c.Revision, gone: true}) })
		}
		ofMembers = ofMembers || c.Task == nil && c.TaskGone == nil
		v.seen = max(v.seen, c.Revision)
	}
	if ofMembers {
		v.resort()
	}
}

// Feed takes one write of this process, made in an era of the store. One of
// another era than the copy's is left to the next list.
func (v *View) Feed(era string, c Change) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.era != "" && era != v.era {
		return
	}
	news := false
	switch {
	case c.Member != nil:
		news = v.members.fed(c.Member.Member.Key(), entry[Lease]{value: *c.Member, rev: c.Revision}, v.seen)
	case c.MemberGone != nil:
		delete(v.expected, *c.MemberGone)
		news = v.members.fed(*c.MemberGone, entry[Lease]{rev: c.Revision, gone: true}, v.seen)
	case c.Mark != nil:
		news = v.marks.fed(*c.Mark, entry[Mark]{value: Mark{*c.Mark, c.Revision}, rev: c.Revision}, v.seen)
	case c.MarkGone != nil:
		news = v.marks.fed(*c.MarkGone, entry[Mark]{rev: c.Revision, gone: true}, v.seen)
	case c.Task != nil:
		v.setTask(c.Task.ID, func() { v.tasks.fed(c.Task.ID, entry[record.Task]{value: *c.Task, rev: c.Revision}, v.seen) })
	case c.TaskGone != nil:
		v.setTask(*c.TaskGone, func() { v.tasks.fed(*c.TaskGone, entry[record.Task]{rev: c.Revision, gone: true}, v.seen) })
	}
	if news {
		v.resort()
	}
}

// effective gives a member with its mark. The caller holds mu.
func (v *View) effective(m record.Member) record.Member {
	if _, marked := v.marks.get(m.Key()); marked {
		m.State = record.StateDraining
	}
	return m
}

// resort renews the sorted list and wakes who waits, if a member came, went
// or changed; a mere renewal under another lease is no news. The caller holds mu.
func (v *View) resort() {
	sorted := make([]record.Member, 0, len(v.members))
	for _, e := range v.members {
		if !e.gone {
			sorted = append(sorted, v.effective(e.value.Member))
		}
	}
	for key, m := range v.expected {
		if _, there := v.members.get(key); !there {
			sorted = append(sorted, v.effective(m))
		}
	}
	slices.SortFunc(sorted, record.Compare)
	if slices.Equal(sorted, v.sorted) {
		return
	}
	v.sorted = sorted
	close(v.changed)
	v.changed = make(chan struct{})
}
