package tasks

import (
	"github.com/supernode-ha/supernode/pkg/ring"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// place chooses the owner of a task among CDNs that take new ones; false when
// there are none. It is the one place that decides so: a bound on the load of
// each would walk ring.Order here and pass over those that are full.
func place(taskID string, ready []record.Member) (owner string, ok bool) {
	nodes := make([]ring.Node, len(ready))
	for i, m := range ready {
		nodes[i] = ring.Node{ID: m.ID, Weight: int(m.Capacity)}
	}
	return ring.First(taskID, nodes)
}
