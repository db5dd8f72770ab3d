// Package placement chooses the CDN for a new task, or for a missing copy of one. It
// takes the first CDN in rendezvous order, weighted by capacity, whose load is not
// above its bound (consistent hashing with bounded loads, Mirrokni, Thorup and
// Zadimoghaddam 2016).
//
// The package is pure: the caller passes the CDNs and their loads. It does not move
// copies that exist.
package placement

import (
	"slices"

	"github.com/supernode-ha/supernode/pkg/ring"
)

// boundPercent is the maximum load of a CDN, in percent of its share of the total
// load. A CDN that has reached it is chosen only if all others that could be chosen
// have reached theirs.
const boundPercent = 125

// Candidate is a CDN that accepts new tasks.
type Candidate struct {
	ID       string
	Zone     string
	Capacity int32 // weight; less than 1 counts as 1
	// Load is the number of tasks that count against the share of the CDN.
	Load int
	// Excluded is set if the CDN must not get this task. Its load still counts in the
	// total.
	Excluded bool
}

// Owner chooses the owner of a task. It returns false if all candidates are excluded.
func Owner(task string, all []Candidate) (string, bool) {
	return choose(task, all, eligible(all))
}

// Replica chooses a replica of a task. If any eligible candidate is in another zone
// than the owner, only those are considered, even if they are above their bounds: a
// zone that fails must not take all copies with it. Replica returns false if all
// candidates are excluded.
func Replica(task, ownersZone string, all []Candidate) (string, bool) {
	from := eligible(all)
	otherZones := slices.DeleteFunc(slices.Clone(from), func(c Candidate) bool { return c.Zone == ownersZone })
	if len(otherZones) > 0 {
		from = otherZones
	}
	return choose(task, all, from)
}

// eligible returns the candidates that are not excluded.
func eligible(all []Candidate) []Candidate {
	return slices.DeleteFunc(slices.Clone(all), func(c Candidate) bool { return c.Excluded })
}

// choose returns the first element of from, in rendezvous order, whose load is below
// its bound. If there is none, it returns the one with the lowest load relative to
// its capacity. The total load is that of all.
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

// bound returns the maximum load of a CDN with the given weight, after one more task
// is placed. load and capacity are the totals of all CDNs. The result is rounded up,
// so it is at least 1.
func bound(load, weight, capacity int64) int64 {
	numerator, denominator := boundPercent*(load+1)*weight, 100*capacity
	return (numerator + denominator - 1) / denominator
}

func (c Candidate) weight() int64 { return int64(max(c.Capacity, 1)) }
