// Package scenario describes what the benchmark runs: how many peers download
// how many files, when they arrive, and what goes wrong with them. It draws what
// each peer does, and does nothing else.
package scenario

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	mostPeers  = 100_000
	mostTasks  = 10_000
	mostPieces = 100_000
)

// Scenario holds the parameters of a run.
type Scenario struct {
	// Peers is the number of peers, Tasks that of the files. The peers are
	// spread evenly over the files.
	Peers, Tasks int
	// Pieces is the number of pieces of each file.
	Pieces int
	// Ramp is the time over which the peers arrive, evenly; 0 is all at once.
	Ramp time.Duration
	// PieceTime is the time that a peer needs to download a piece.
	PieceTime time.Duration
	// Fail is the share of all downloads of pieces that fail.
	Fail float64
	// Crash is the share of the peers that end in the middle and tell the server
	// nothing. Unreachable is the share of those from which no other peer can
	// download, Lie that of those that report pieces that they do not have.
	Crash, Unreachable, Lie float64
	// Seed draws which peers these are, and what fails.
	Seed uint64
}

// Peer is what one peer does.
type Peer struct {
	// Task is the number of its file, from 0.
	Task int
	// Arrive is the time from the start of the run until it registers.
	Arrive time.Duration
	// CrashAfter is the share of its pieces after which it crashes; 0 is never.
	CrashAfter float64
	// Unreachable and Lies are its faults.
	Unreachable, Lies bool
	// Seed draws its chances.
	Seed uint64
}

// Draw returns what each of the peers does.
func (s Scenario) Draw() []Peer {
	random := rand.New(rand.NewPCG(s.Seed, 1)) //nolint:gosec // a schedule, no secret
	peers := make([]Peer, s.Peers)
	for i := range peers {
		peers[i].Task = i % s.Tasks
		peers[i].Arrive = s.Ramp * time.Duration(i) / time.Duration(s.Peers)
		peers[i].Seed = random.Uint64()
	}
	for _, i := range random.Perm(s.Peers)[:s.count(s.Crash)] {
		peers[i].CrashAfter = crashAfter(random)
	}
	for _, i := range random.Perm(s.Peers)[:s.count(s.Unreachable)] {
		peers[i].Unreachable = true
	}
	for _, i := range random.Perm(s.Peers)[:s.count(s.Lie)] {
		peers[i].Lies = true
	}
	return peers
}

// DrawOne returns what a peer does of which nothing but the shares is known. Its
// task and its arrival are the caller's to set.
func (s Scenario) DrawOne(random *rand.Rand) Peer {
	p := Peer{
		Seed: random.Uint64(), Unreachable: random.Float64() < s.Unreachable, Lies: random.Float64() < s.Lie,
	}
	if random.Float64() < s.Crash {
		p.CrashAfter = crashAfter(random)
	}
	return p
}

func crashAfter(random *rand.Rand) float64 { return 0.2 + 0.6*random.Float64() }

// count returns how many peers a share is.
func (s Scenario) count(share float64) int { return int(share*float64(s.Peers) + 0.5) }

// String names the scenario.
func (s Scenario) String() string {
	name := fmt.Sprintf("%s, %s, %s", plural(s.Peers, "peer"), plural(s.Tasks, "task"), plural(s.Pieces, "piece"))
	if s.Ramp > 0 {
		name += fmt.Sprintf(", arriving over %s", s.Ramp)
	}
	if s.PieceTime > 0 {
		name += fmt.Sprintf(", %s a piece", s.PieceTime)
	}
	for _, share := range []struct {
		of   float64
		what string
	}{{s.Fail, "of the pieces fail"}, {s.Crash, "crash"}, {s.Unreachable, "unreachable"}, {s.Lie, "lie"}} {
		if share.of > 0 {
			name += fmt.Sprintf(", %g %% %s", 100*share.of, share.what)
		}
	}
	return name
}

func plural(n int, of string) string {
	if n != 1 {
		of += "s"
	}
	return fmt.Sprintf("%d %s", n, of)
}

// Check returns an error that says which parameters cannot be run.
func (s Scenario) Check() error {
	var errs []error
	for _, number := range []struct {
		name     string
		is, most int
	}{{"peers", s.Peers, mostPeers}, {"tasks", s.Tasks, mostTasks}, {"pieces", s.Pieces, mostPieces}} {
		if number.is < 1 || number.is > number.most {
			errs = append(errs, fmt.Errorf("%d %s: 1 to %d are possible", number.is, number.name, number.most))
		}
	}
	if s.Ramp < 0 || s.PieceTime < 0 {
		errs = append(errs, errors.New("the time over which peers arrive and that of a piece must not be negative"))
	}
	for _, share := range []struct {
		name string
		is   float64
		all  bool // is possible
	}{{"fail", s.Fail, false}, {"crash", s.Crash, false}, {"unreachable", s.Unreachable, true}, {"lie", s.Lie, true}} {
		if !isShare(share.is) || share.is == 1 && !share.all {
			errs = append(errs, fmt.Errorf("%s %g: a share is 0 to 1, and neither may all pieces fail nor all peers crash", share.name, share.is))
		}
	}
	return errors.Join(errs...)
}

func isShare(x float64) bool { return x >= 0 && x <= 1 }
