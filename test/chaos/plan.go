// Package chaos lets a cluster live through a random but reproducible time:
// processes of every role and members of etcd are killed, held, told to stop and
// started again, cut off and parted from each other, while peers come, download
// files of all sizes, leave and vanish. A seed names the blows and their times; a
// blow comes later when what was done to its role before takes long to undo. What
// peers do is drawn from the seed, too, but how much of that they get to depends
// on how fast they are. What one fault costs is measured in package faults; here
// it is only asked whether anything ever goes wrong.
package chaos

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/pace"
)

// Etcd is the role of the members of etcd.
const Etcd cluster.Role = "etcd"

// Roles are all whose processes have a hard time.
func Roles() []cluster.Role {
	return []cluster.Role{cluster.Gateway, cluster.Scheduler, cluster.CDN, cluster.Registry, Etcd}
}

// Kind is what happens to a process.
type Kind string

// The kinds.
const (
	Kill Kind = "kill -9" // and started again
	Hold Kind = "SIGSTOP" // and let go on
	Stop Kind = "SIGTERM" // and started again
	Cut  Kind = "cut off" // from everybody, its clients too, and connected again
	Part Kind = "parting" // from all of a role, and joined with them again
)

// kinds are all, those that occur more often more than once.
func kinds() []Kind { return []Kind{Kill, Kill, Hold, Stop, Cut, Part} }

// Blow is one thing that happens.
type Blow struct {
	// At is when, from the beginning; For is how long until it is undone.
	At, For time.Duration
	Kind    Kind
	Role    cluster.Role
	// Number picks the process among those of the role.
	Number int
	// From is the role of those it is parted from; those of its own role are the
	// others of it.
	From cluster.Role
}

func (b Blow) String() string {
	if b.Kind == Part {
		return fmt.Sprintf("%6.1fs %s of %s %d from every %s for %.1fs", b.At.Seconds(), b.Kind, b.Role, b.Number, b.From, b.For.Seconds())
	}
	return fmt.Sprintf("%6.1fs %s of %s %d for %.1fs", b.At.Seconds(), b.Kind, b.Role, b.Number, b.For.Seconds())
}

const (
	// Each role is left alone for calmLeast to calmMost behind every blow: the
	// cluster has to survive one of a role at a time, and be whole again before
	// the next.
	calmLeast, calmMost = 12 * time.Second, 30 * time.Second
	blowLeast, blowMost = 500 * time.Millisecond, 12 * time.Second
)

// Plan makes the blows of a time, in the order of their times: of processes of each role, n of each. The
// same seed makes the same plan.
func Plan(seed uint64, length time.Duration, n int) []Blow {
	var blows []Blow
	for i, role := range Roles() {
		random := rand.New(rand.NewPCG(seed, uint64(i))) //nolint:gosec // it is to be reproducible
		for at := pace.Between(random, time.Second, calmMost); ; {
			b := Blow{
				At: at, For: pace.Between(random, blowLeast, blowMost),
				Kind: pick(random, kinds()), Role: role, Number: random.IntN(n), From: pick(random, Roles()),
			}
			if b.At+b.For >= length {
				break
			}
			blows = append(blows, b)
			at = b.At + b.For + pace.Between(random, calmLeast, calmMost)
		}
	}
	slices.SortFunc(blows, func(a, b Blow) int { return cmp.Compare(a.At, b.At) })
	return blows
}

func pick[T any](random *rand.Rand, all []T) T { return all[random.IntN(len(all))] }
