// Package ring is rendezvous hashing: which of the members a key belongs to,
// so that every place that sees the same members gives the same answer and a
// member that comes or goes moves only its own keys. It is pure: membership
// and health are decided elsewhere.
package ring

import (
	"cmp"
	"math"
	"slices"

	"github.com/cespare/xxhash/v2"
)

// Node is a candidate for keys.
type Node struct {
	// ID names the node; equal ids are the same node.
	ID string
	// Weight is the node's share beside that of others; less than 1 counts as 1.
	Weight int
}

// Order sorts nodes by how much they want key, the first most. The argument
// is not changed. The scores are those of weighted rendezvous hashing
// (Thaler and Ravishankar 1998, weights after Schindelhauer and Schomaker 2005).
func Order(key string, nodes []Node) []Node {
	type scored struct {
		Node
		score float64
	}
	all := make([]scored, len(nodes))
	for i, n := range nodes {
		all[i] = scored{n, score(key, n)}
	}
	slices.SortFunc(all, func(a, b scored) int {
		return cmp.Or(cmp.Compare(b.score, a.score), cmp.Compare(a.ID, b.ID))
	})
	ordered := make([]Node, len(all))
	for i, s := range all {
		ordered[i] = s.Node
	}
	return ordered
}

// First gives the id of the node that wants key most, and false when there is no node.
func First(key string, nodes []Node) (string, bool) {
	best, bestScore := "", math.Inf(-1)
	for _, n := range nodes {
		if s := score(key, n); s > bestScore || s == bestScore && n.ID < best {
			best, bestScore = n.ID, s
		}
	}
	return best, len(nodes) > 0
}

func score(key string, n Node) float64 {
	var d xxhash.Digest
	d.Reset()
	_, _ = d.WriteString(n.ID)
	_, _ = d.Write([]byte{0})
	_, _ = d.WriteString(key)
	// The hash as a number strictly between 0 and 1.
	u := (float64(d.Sum64()>>11) + 0.5) / (1 << 53)
	return -float64(max(n.Weight, 1)) / math.Log(u)
}
