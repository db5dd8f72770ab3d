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

// flaw is a way in which a store, or the decisions above it, could be wrong.
// The histories have to find each of them.
type flaw string

const (
	sound         flaw = ""
	noRevision    flaw = "revision not compared"
	noEra         flaw = "era not compared"
	noGone        flaw = "not proven gone"
	noThere       flaw = "not proven there"
	epochStays    flaw = "epoch not raised"
	copyForgotten flaw = "live copy forgotten at a takeover"
	memoryIgnored flaw = "remembered epoch ignored"
	copyRefused   flaw = "announced whole copy not taken"
)

// state is what a store holds.
type state struct {
	era     string
	rev     int64
	young   bool // nobody who is no member is gone
	members map[record.MemberKey]cache.Lease
	marks   map[record.MemberKey]int64
	tasks   map[string]record.Task
}

// simStore is compare-and-swap of records as etcd does it, with the checks of
// every write against what must always hold.
type simStore struct {
	state
	flaw   flaw
	eras   int
	events []cache.Change // of this era
	// owners are the hands that an epoch of a task has had in this era.
	owners map[string]record.Task
	broken error
	writes map[string]int
}

func newSimStore(f flaw) *simStore {
	s := &simStore{flaw: f, writes: make(map[string]int)}
	s.empty()
	return s
}

// empty is an etcd that comes back with nothing, and counts anew.
func (s *simStore) empty() {
	s.state = state{
		members: make(map[record.MemberKey]cache.Lease), marks: make(map[record.MemberKey]int64), tasks: make(map[string]record.Task),
	}
	s.young = s.eras > 0
	s.events, s.owners = nil, make(map[string]record.Task)
}

// restore is an etcd that comes back with a backup. That it has another era
// is what the first registry that notices sees to.
func (s *simStore) restore(backup state) {
	s.state = backup.clone()
	s.young = true
	s.events, s.owners = nil, make(map[string]record.Task)
	s.era = ""
	s.beginEra()
	for _, t := range s.tasks {
		s.owners[fmt.Sprint(t.ID, t.Epoch)] = t
	}
}

func (s state) clone() state {
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

// handle is one registry's way to the store.
type handle struct {
	*simStore
	cache *cache.Cache
	away  bool
}

func (h *handle) begin(ctx context.Context) (*op, error) {
	o := ctx.Value(opKey{}).(*op)
	o.yield()
	if h.away {
		return o, etcdconn.Unavailable("away")
	}
	return o, nil
}

func (h *handle) ReadState(ctx context.Context, ids ...string) (etcdstore.State, error) {
	o, err := h.begin(ctx)
	if err != nil {
		return etcdstore.State{}, err
	}
	h.beginEra()
	scene := etcdstore.State{Era: h.era, Young: h.young, Tasks: make(map[string]record.Task), Members: make(map[record.MemberKey]record.Member)}
	o.young = h.young
	for _, id := range ids {
		scene.Tasks[id] = h.get(id)
		o.looked = scene.Tasks[id]
	}
	for key, lease := range h.members {
		m := lease.Member
		if _, marked := h.marks[key]; marked {
			m.State = record.StateDraining
		}
		scene.Members[key] = m
	}
	return scene, nil
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
	panic("histories delete nothing")
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
	h.spoil(&next, cur, w.Kind)
	h.check(cur, next, w, o)
	h.writes[w.Kind]++
	h.put(cache.Change{Task: &next})
	h.cache.ApplyWrite(h.era, cache.Change{Revision: next.Revision, Task: &next})
	if o.loseAnswer() {
		return record.Task{}, false, etcdconn.Unavailable("the answer was lost")
	}
	return next, true, nil
}

func (h *handle) holds(w etcdstore.Swap, cur record.Task) bool {
	if w.Task.Revision != cur.Revision && h.flaw != noRevision {
		return false
	}
	if w.Era != h.era && h.flaw != noEra {
		return false
	}
	if h.young && len(w.Absent) > 0 {
		return false
	}
	return (h.flaw == noGone || !slices.ContainsFunc(w.Absent, h.isMember)) &&
		(h.flaw == noThere || !slices.ContainsFunc(w.Present, func(k record.MemberKey) bool { return !h.isMember(k) }))
}

// spoil is what wrong decisions would write.
func (h *handle) spoil(next *record.Task, cur record.Task, kind string) {
	switch {
	case h.flaw == epochStays && cur.Owner != "" && !next.SameAssignment(cur):
		next.Epoch = cur.Epoch
	case h.flaw == copyForgotten && cur.Owner != next.Owner && len(next.Replicas) > 0:
		next.Replicas = next.Replicas[:len(next.Replicas)-1]
	case h.flaw == memoryIgnored && cur.Owner == "":
		next.Epoch = 1
	case h.flaw == copyRefused && kind == "announce" && cur.Owner != "":
		next.Replicas = cur.Replicas
	}
}
