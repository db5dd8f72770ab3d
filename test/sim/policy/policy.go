// Package policy is the simulator's view of what chooses the sources of pieces:
// the scheduler's own code, and Dragonfly v1's rule to compare it with. All that
// touches the scheduler's packages is in one file, so that a change there is a
// change here in one place.
package policy

import (
	"fmt"
	"math/rand/v2"
	"time"
)

// Source is where a piece comes from: the number of a peer of the task, or
// what CDN gives.
type Source int32

// CDN is the CDN instance of that number as a source.
func CDN(instance int) Source { return Source(-1 - instance) }

// IsCDN tells whether the source is a CDN instance.
func (s Source) IsCDN() bool { return s < 0 }

// Instance is the number of a CDN instance.
func (s Source) Instance() int { return int(-1 - s) }

// Offer is a piece that a peer may fetch.
type Offer struct {
	// Num is the piece, Length its wrapped length in bytes.
	Num, Length int32
	// From is where to fetch it.
	From Source

	handle any // the policy's own
}

// Idle is what a client is told when there is no offer.
type Idle int

// What a client is told.
const (
	Wait    Idle = iota // 602: it sleeps and asks again
	Nothing             // 601 without pieces: it asks when a piece ends
)

// Info is what a task begins with.
type Info struct {
	// Number is the task's number among those of a run.
	Number int
	// Length is the number of bytes of the content, PieceSize that of a wrapped
	// piece, Pieces the number of pieces.
	Length            int64
	PieceSize, Pieces int32
	// Peers is how many peers there will be.
	Peers int
}

// Task chooses for the peers of one task. Peers are numbers below Info.Peers.
// All methods are called by one goroutine.
type Task interface {
	// AddPeer registers a peer.
	AddPeer(peer int, now time.Duration)
	// Started is a peer's first pull.
	Started(peer int, now time.Duration)
	// Seen notes any other pull.
	Seen(peer int, now time.Duration)
	// Got says that a piece is written at a peer, SemiSuccess that it will be.
	Got(peer int, num int32, now time.Duration)
	SemiSuccess(peer int, num int32, now time.Duration)
	// Failed says that a peer could not fetch a piece.
	Failed(peer int, num int32, from Source, now time.Duration)
	// Offer gives a peer pieces to fetch; without any, idle is what to say.
	Offer(peer int, now time.Duration) (offers []Offer, idle Idle)
	// Again gives what a peer is told at the end of a held pull.
	Again(peer int, now time.Duration) []Offer
	// HoldPull has a peer's pull wait until a time, 0 for one that is not held. Next
	// returns a peer whose pull may have an answer, and false if there is none;
	// Denied keeps that pull, Release ends it.
	HoldPull(peer int, until time.Duration)
	Next(now time.Duration) (peer int, ok bool)
	Denied(peer int, now time.Duration)
	Release(peer int)
	// Undelivered takes back offers that did not reach the peer.
	Undelivered(peer int, offers []Offer)
	// Finished tells whether a peer has everything.
	Finished(peer int) bool
	// Attach has a CDN instance serve the task; Landed says that a piece is
	// there, Whole that all are.
	Attach(instance int)
	Landed(instance int, num, length int32, now time.Duration)
	Whole(instance int)
	// Tick lets time pass.
	Tick(now time.Duration)
	// Err is the first thing that went wrong, and should not.
	Err() error
}

// Looked counts the work of a task's choices.
type Looked struct {
	// Choices is how often an offer was asked for; Pieces and Holders is what
	// was looked at for that.
	Choices, Pieces, Holders int64
}

// Counter is a task that counts its work.
type Counter interface {
	// Looked returns the counts so far.
	Looked() Looked
}

// Waker is a task that can become able to offer what it could not, without
// anything that is told to it.
type Waker interface {
	// Woken tells, once, whether that has happened: Next may return a peer then.
	Woken() bool
}

// Measurer is a policy that depends on what CDN instances send.
type Measurer interface {
	// Measure tells, every 100 ms, how many bytes an instance has sent so far, and
	// how many transfers have ended.
	Measure(instance int, sent, ended int64, now time.Duration)
}

// Policy makes tasks.
type Policy interface {
	// Name names it in tables.
	Name() string
	// PieceSize gives the size of a wrapped piece for a file.
	PieceSize(length int64) int32
	// Hold is how long a pull without an offer is held.
	Hold() time.Duration
	// NewTask makes a task. Tasks of one policy share the capacity of the CDN.
	NewTask(info Info, random *rand.Rand) Task
}

// Options tune a policy.
type Options struct {
	// PieceSize is the size of a wrapped piece in bytes, 0 for the policy's own.
	PieceSize int32
	// Up and Down are the slots of a peer, 0 for the policy's own.
	Up, Down int
}

// New makes the policy of that name.
func New(name string, o Options) (Policy, error) {
	switch name {
	case "swarm":
		return newScheduler(o), nil
	case "v1":
		return newV1(o), nil
	}
	return nil, fmt.Errorf("no policy is named %q", name)
}

// Names are the policies that New knows.
func Names() []string { return []string{"v1", "swarm"} }
