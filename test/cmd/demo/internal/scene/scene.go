// Package scene is what the demonstration looks like at a moment, and what it
// came to: what is played and watched is put into it, what is drawn is taken
// from it. It knows nothing of how any of that is done.
package scene

import (
	"slices"
	"time"
)

// Scene is a moment of it.
type Scene struct {
	Seed       uint64
	Elapsed    time.Duration
	Size, Sent int64 // bytes of the file, and those that the source has sent
	Supernodes []Supernode
	Peers      []Peer
	Kills      []Kill // the latest last
}

// Status is how a supernode is.
type Status string

// Every status.
const (
	Up       Status = "up"
	Killed   Status = "killed"
	Starting Status = "starting"
)

// Supernode is one of the cluster.
type Supernode struct {
	Name   string
	Status Status
	Parts  []string // what it is to the task
}

// Peer is one that downloads, or will.
type Peer struct {
	Share      float64 // of the file, 0 to 1
	Supernode  string  // that it talks to; none before it is registered
	Migrations int
}

// Kill is one kill -9 of a supernode.
type Kill struct {
	At        time.Duration
	Supernode string
	Parts     []string      // what it was to the task
	Down      time.Duration // how long until it was started again; 0 while it is not
}

// Cast is who is what to the task, by the names of the supernodes.
type Cast struct {
	Owner              string
	Replicas           []string
	Scheduler, Standby string
}

// Parts are those of a supernode.
func (c Cast) Parts(name string) []string {
	var parts []string
	for _, p := range []struct {
		is   bool
		name string
	}{
		{c.Owner == name, "owner"},
		{slices.Contains(c.Replicas, name), "replica"},
		{c.Scheduler == name, "scheduler"},
		{c.Standby == name, "standby"},
	} {
		if p.is {
			parts = append(parts, p.name)
		}
	}
	return parts
}

// Whole says that every part is somebody's: whoever is killed leaves another
// behind who can do what he did.
func (c Cast) Whole() bool {
	return c.Owner != "" && len(c.Replicas) > 0 && c.Scheduler != "" && c.Standby != ""
}

// Tally is what it came to.
type Tally struct {
	Seed  uint64
	Peers int
	// Right is how many have the right bytes, Wrong how many have others, and
	// BackToSource how many went to the source, or would have if they might.
	Right, Wrong, BackToSource int
	Size, Sent                 int64
	Migrations, Kills          int
	// Stall is the longest time that a peer under way got no piece.
	Stall, Took time.Duration
}
