package route

import (
	"slices"

	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/ring"
)

// schedulers are the members of one list as the hash needs them. They are built once
// a list, not once a call.
type schedulers struct {
	members []cluster.Member
	nodes   []ring.Node
	byID    map[string]cluster.Member
}

// current returns the schedulers of the list that the members have now.
func (r *Router) current() *schedulers {
	members := r.members.Schedulers()
	if s := r.schedulers.Load(); s != nil && sameList(s.members, members) {
		return s
	}
	s := &schedulers{members: members, nodes: make([]ring.Node, len(members)), byID: make(map[string]cluster.Member, len(members))}
	for i, m := range members {
		s.nodes[i] = ring.Node{ID: m.ID}
		s.byID[m.ID] = m
	}
	r.schedulers.Store(s)
	return s
}

// sameList reports whether two lists are one: a list is never changed.
func sameList(a, b []cluster.Member) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

// first returns the scheduler to call first in a round, and false if all candidates
// have to be ordered for that: the cached owner, if it is a member and not
// unresponsive, else the first in the order of the hash, if it is READY. hashed is the
// id of the first in that order.
func (r *Router) first(task string, s *schedulers) (m cluster.Member, hashed string, ok bool) {
	hashed, _ = ring.First(task, s.nodes)
	if m, ok = r.cachedOwner(task, s); ok {
		return m, hashed, true
	}
	m, ok = s.byID[hashed]
	return m, hashed, ok && r.rank(m) == rankReady
}

func (r *Router) cachedOwner(task string, s *schedulers) (cluster.Member, bool) {
	id, found := r.owners.Get(task)
	if !found {
		return cluster.Member{}, false
	}
	m, isMember := s.byID[id]
	return m, isMember && !r.health.unresponsive(m.Endpoint)
}

// candidates returns the schedulers to call in a round: the cached owner, if it is a
// member and not unresponsive, then the members by rank, and within a rank in the
// order of the hash.
func (r *Router) candidates(task string, s *schedulers) []cluster.Member {
	queue := make([]cluster.Member, 0, len(s.nodes)+1+maxHops)
	for _, n := range ring.Order(task, s.nodes) {
		queue = append(queue, s.byID[n.ID])
	}
	slices.SortStableFunc(queue, func(a, b cluster.Member) int { return r.rank(a) - r.rank(b) })
	queue = queue[:min(len(queue), maxCandidates)]
	if m, found := r.cachedOwner(task, s); found {
		queue = slices.Insert(queue, 0, m)
	}
	return queue
}

// The ranks of schedulers, the best first.
const (
	rankReady = iota
	rankDraining
	rankUnresponsive
)

func (r *Router) rank(m cluster.Member) int {
	switch {
	case r.health.unresponsive(m.Endpoint):
		return rankUnresponsive
	case m.Draining:
		return rankDraining
	}
	return rankReady
}
