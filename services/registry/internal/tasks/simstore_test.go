package tasks_test

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdconn"
	"github.com/supernode-ha/supernode/services/registry/internal/etcdstore"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// flaw is an error that a test adds to the store or to the records that are written. The
// histories must find each of them.
type flaw string

const (
	noFlaw           flaw = ""
	revisionIgnored  flaw = "revision not compared"
	eraIgnored       flaw = "era not compared"
	absenceIgnored   flaw = "absent members not checked"
	presenceIgnored  flaw = "present members not checked"
	epochNotRaised   flaw = "epoch not raised"
	copyDropped      flaw = "copy of a member dropped at a takeover"
	usedEpochIgnored flaw = "used epoch ignored"
	copyNotAdded     flaw = "announced whole copy not added"
)

// simState is the content of a simulated store.
type simState struct {
	era     string
	rev     int64
	young   bool // no member is gone
	members map[record.MemberKey]cache.Lease
	marks   map[record.MemberKey]int64
	tasks   map[string]record.Task
}

// simStore simulates an etcd. It checks the invariants with every write of a record.
type simStore struct {
	simState
	flaw   flaw
	eras   int
	events []cache.Change // of this era
	// owners are the records that an epoch of a task has had in this era.
	owners map[string]record.Task
	broken error
	writes map[string]int
}

func newSimStore(f flaw) *simStore {
	s := &simStore{flaw: f, writes: make(map[string]int)}
	s.empty()
	return s
}

// empty deletes everything. Revisions start again.
func (s *simStore) empty() {
	s.simState = simState{
		members: make(map[record.MemberKey]cache.Lease), marks: make(map[record.MemberKey]int64), tasks: make(map[string]record.Task),
	}
	s.young = s.eras > 0
	s.events, s.owners = nil, make(map[string]record.Task)
}

// restore replaces the content by a backup. The new era is that of the first registry
// that detects it.
func (s *simStore) restore(backup simState) {
	s.simState = backup.clone()
	s.young = true
	s.events, s.owners = nil, make(map[string]record.Task)
	s.era = ""
	s.beginEra()
	for _, t := range s.tasks {
		s.owners[fmt.Sprint(t.ID, t.Epoch)] = t
	}
}

func (s simState) clone() simState {
	s.members, s.marks, s.tasks = maps.Clone(s.members), maps.Clone(s.marks), maps.Clone(s.tasks)
	return s
}

func (s *simStore) beginEra() {
	if s.era == "" {
		s.eras++
		s.era = fmt.Sprint("era ", s.eras)
		s.rev++
	}
}

func (s *simStore) put(c cache.Change) {
	s.rev++
	c.Revision = s.rev
	switch {
	case c.Member != nil:
		c.Member.Revision = s.rev
		s.members[c.Member.Member.Key()] = *c.Member
	case c.MemberGone != nil:
		delete(s.members, *c.MemberGone)
	case c.DrainMark != nil:
		s.marks[*c.DrainMark] = s.rev
	case c.DrainMarkGone != nil:
		delete(s.marks, *c.DrainMarkGone)
	case c.Task != nil:
		c.Task.Revision = s.rev
		s.tasks[c.Task.ID] = *c.Task
	}
	s.events = append(s.events, c)
}

func (s *simStore) snapshot() cache.Snapshot {
	snap := cache.Snapshot{Era: s.era, Revision: s.rev, Members: slices.Collect(maps.Values(s.members)), Tasks: slices.Collect(maps.Values(s.tasks))}
	for key, rev := range s.marks {
		snap.DrainMarks = append(snap.DrainMarks, cache.DrainMark{Key: key, Revision: rev})
	}
	return snap
}

func (s *simStore) isMember(key record.MemberKey) bool {
	_, ok := s.members[key]
	return ok
}

func (s *simStore) violated(format string, args ...any) {
	if s.broken == nil {
		s.broken = fmt.Errorf(format, args...)
	}
}

// handle is the access of one registry to the store.
type handle struct {
	*simStore
	cache       *cache.Cache
	unavailable bool
}

func (h *handle) begin(ctx context.Context) (*op, error) {
	o := ctx.Value(opKey{}).(*op)
	o.yield()
	if h.unavailable {
		return o, etcdconn.Unavailable("unavailable")
	}
	return o, nil
}

func (h *handle) ReadState(ctx context.Context, ids ...string) (etcdstore.State, error) {
	o, err := h.begin(ctx)
	if err != nil {
		return etcdstore.State{}, err
	}
	h.beginEra()
	state := etcdstore.State{Era: h.era, Young: h.young, Tasks: make(map[string]record.Task), Members: make(map[record.MemberKey]record.Member)}
	o.young = h.young
	for _, id := range ids {
		state.Tasks[id] = h.get(id)
		o.read = state.Tasks[id]
	}
	for key, lease := range h.members {
		m := lease.Member
		if _, marked := h.marks[key]; marked {
			m.State = record.StateDraining
		}
		state.Members[key] = m
	}
	return state, nil
}

func (h *handle) get(id string) record.Task {
	if t, ok := h.tasks[id]; ok {
		return t
	}
	return record.Task{ID: id}
}

func (h *handle) Task(ctx context.Context, id string) (record.Task, string, error) {
	if _, err := h.begin(ctx); err != nil {
		return record.Task{}, "", err
	}
	return h.get(id), h.era, nil
}

func (h *handle) Delete(context.Context, string, string, int64) (bool, error) {
	panic("histories do not delete records")
}

func (h *handle) Swap(ctx context.Context, w etcdstore.Swap) (record.Task, bool, error) {
	o, err := h.begin(ctx)
	if err != nil {
		return record.Task{}, false, err
	}
	cur := h.get(w.Task.ID)
	if !h.holds(w, cur) {
		return record.Task{}, false, nil
	}
	next := w.Task
	h.applyFlaw(&next, cur, w.Kind)
	h.check(cur, next, w, o)
	h.writes[w.Kind]++
	h.put(cache.Change{Task: &next})
	h.cache.ApplyWrite(h.era, cache.Change{Revision: next.Revision, Task: &next})
	if o.takeAnswerLoss() {
		return record.Task{}, false, etcdconn.Unavailable("the answer was lost")
	}
	return next, true, nil
}

func (h *handle) holds(w etcdstore.Swap, cur record.Task) bool {
	if w.Task.Revision != cur.Revision && h.flaw != revisionIgnored {
		return false
	}
	if w.Era != h.era && h.flaw != eraIgnored {
		return false
	}
	if h.young && len(w.Absent) > 0 {
		return false
	}
	return (h.flaw == absenceIgnored || !slices.ContainsFunc(w.Absent, h.isMember)) &&
		(h.flaw == presenceIgnored || !slices.ContainsFunc(w.Present, func(k record.MemberKey) bool { return !h.isMember(k) }))
}

// applyFlaw changes a record as the flaw requires.
func (h *handle) applyFlaw(next *record.Task, cur record.Task, kind string) {
	switch {
	case h.flaw == epochNotRaised && cur.Owner != "" && !next.SameAssignment(cur):
		next.Epoch = cur.Epoch
	case h.flaw == copyDropped && cur.Owner != next.Owner && len(next.Replicas) > 0:
		next.Replicas = next.Replicas[:len(next.Replicas)-1]
	case h.flaw == usedEpochIgnored && cur.Owner == "":
		next.Epoch = 1
	case h.flaw == copyNotAdded && kind == "announce" && cur.Owner != "":
		next.Replicas = cur.Replicas
	}
}
