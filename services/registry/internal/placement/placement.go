// Package placement says which CDN a new task, or a missing copy of one, goes
// to: rendezvous order weighted by capacity, passing over whoever has more
// than its share already (bounded loads, after Mirrokni, Thorup and
// Zadimoghaddam 2016). It is pure, and knows nothing of what lies where: what
// is placed stays, and that is for package ownership to see to.
package placement

import (
	"slices"

	"github.com/supernode-ha/supernode/pkg/ring"
)

// Nobody has more than slack/100 of the mean, if another can take the task.
const slack = 125

// Candidate is a CDN that takes new tasks.
type Candidate struct {
	ID       string
	Zone     string
	Capacity int32 // less than 1 counts as 1
	// Load is what counts against its share.
	Load int
	// Barred is one that may not have this task, though it has its share of others.
	Barred bool
}

// Owner chooses among all candidates; false when none may.
func Owner(task string, all []Candidate) (string, bool) {
	return choose(task, all, allowed(all))
}

// Replica chooses among all candidates, one of another zone than the owner's
// if there is one: a zone that fails must not take all copies with it, and
// uneven load is the smaller evil.
func Replica(task, ownersZone string, all []Candidate) (string, bool) {
	from := allowed(all)
	elsewhere := slices.DeleteFunc(slices.Clone(from), func(c Candidate) bool { return c.Zone == ownersZone })
	if len(elsewhere) > 0 {
		from = elsewhere
	}
	return choose(task, all, from)
}

func allowed(all []Candidate) []Candidate {
	return slices.DeleteFunc(slices.Clone(all), func(c Candidate) bool { return c.Barred })
}

// choose gives the first of from, in rendezvous order, that is within bound,
// else the one with the least load for its capacity.
func choose(task string, all, from []Candidate) (string, bool) {
	if len(from) == 0 {
		return "", false
	}
	var load, capacity int64
	for _, c := range all {
		load += int64(c.Load)
		capacity += c.weight()
	}
	nodes := make([]ring.Node, len(from))
	byID := make(map[string]Candidate, len(from))
	for i, c := range from {
		nodes[i] = ring.Node{ID: c.ID, Weight: int(c.Capacity)}
		byID[c.ID] = c
	}
	ordered := ring.Order(task, nodes)
	least := byID[ordered[0].ID]
	for _, n := range ordered {
		c := byID[n.ID]
		if int64(c.Load) < bound(load, c.weight(), capacity) {
			return c.ID, true
		}
		if int64(c.Load)*least.weight() < int64(least.Load)*c.weight() {
			least = c
		}
	}
	return least.ID, true
}

// bound is how much one may have once the new task is placed, rounded up, so
// that it is never less than one.
func bound(load, weight, capacity int64) int64 {
	share, whole := slack*(load+1)*weight, 100*capacity
	return (share + whole - 1) / whole
}

func (c Candidate) weight() int64 { return int64(max(c.Capacity, 1)) }
