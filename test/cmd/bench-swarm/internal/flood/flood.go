// Package flood sends a server what hostile and broken clients send: far too many
// requests, or requests that mean nothing, or half of them. It counts the answers.
// What ordinary peers see meanwhile is package run's.
package flood

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/wire"
)

// Kind names a flood.
type Kind string

// The kinds.
const (
	// None sends nothing. It is what the others are compared with.
	None Kind = "none"
	// Registrations registers peers for a file that exists. Their ids are random
	// or malformed, and none of them pulls.
	Registrations Kind = "registrations"
	// URLs registers a peer for each of many URLs that the source answers with 404.
	URLs Kind = "urls"
	// Pulls is one peer that pulls on many connections without pause.
	Pulls Kind = "pulls"
	// Cut opens connections and resets each after half of a request, or behind one.
	Cut Kind = "cut"
	// Idle opens connections and sends nothing.
	Idle Kind = "idle"
)

// All returns all kinds; None is the first.
func All() []Kind { return []Kind{None, Registrations, URLs, Pulls, Cut, Idle} }

// Parse returns the kinds of a list that is separated by commas. "all" stands for
// all of them.
func Parse(list string) ([]Kind, error) {
	if list == "all" {
		return All(), nil
	}
	var kinds []Kind
	for name := range strings.SplitSeq(list, ",") {
		kind := Kind(name)
		if !slices.Contains(All(), kind) {
			return nil, fmt.Errorf("the flood %q: %v or all are possible", name, All())
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
}

// Size returns how many requests the flood sends by default. That of Idle is the
// number of connections. Pulls is not bounded by a number.
func (k Kind) Size() int {
	const requests, connections = 10_000, 2_000
	if k == Idle {
		return connections
	}
	return requests
}

// Lasts reports whether the flood lasts until its context ends.
func (k Kind) Lasts() bool { return k == None || k == Pulls || k == Idle }

// Config is what is sent, and to which server.
type Config struct {
	Kind Kind
	// Size is the number of requests, and that of the connections of Idle.
	Size int
	// Address is the server's host:port.
	Address string
	// URL and MD5 are those of a file that it has.
	URL, MD5 string
	// Missing is the beginning of URLs that the source answers with 404.
	Missing string
	// Seed draws ids and pieces.
	Seed uint64
}

// Flood can be sent several times. No two times have an id or a URL in common.
type Flood struct {
	cfg   Config
	out   wire.Writer
	tally Tally

	number atomic.Int64 // of requests and peers so far

	mu     sync.Mutex // guards random
	random *rand.Rand
}

// connections is how many connections send at the same time.
const connections = 50

// New returns a flood. Nothing is sent before Run.
func New(cfg Config) (*Flood, error) {
	out, err := wire.NewWriter(cfg.Address)
	if err != nil {
		return nil, fmt.Errorf("making the flood %s: %w", cfg.Kind, err)
	}
	return &Flood{
		cfg: cfg, out: out,
		random: rand.New(rand.NewPCG(cfg.Seed, 2)), //nolint:gosec // chances, no secret
	}, nil
}

// Tally returns what was sent and answered so far.
func (f *Flood) Tally() *Tally { return &f.tally }

// Run sends the flood once. It returns when all is sent and answered, or the
// context has ended; neither is an error. An error says why nothing can be sent.
func (f *Flood) Run(ctx context.Context) error {
	switch f.cfg.Kind {
	case Registrations:
		f.post(ctx, f.bogusRegistration)
	case URLs:
		f.post(ctx, f.missingRegistration)
	case Pulls:
		return f.pull(ctx)
	case Cut:
		return f.cutAll(ctx)
	case Idle:
		f.idle(ctx)
	case None:
	}
	return nil
}

// workers calls work with 0 to n-1 from as many goroutines as there are
// connections, until the context ends.
func (f *Flood) workers(ctx context.Context, n int, work func(next func() (int, bool))) {
	var given atomic.Int64
	next := func() (int, bool) {
		if ctx.Err() != nil {
			return 0, false
		}
		i := int(given.Add(1)) - 1
		return i, i < n
	}
	var all sync.WaitGroup
	for range min(n, connections) {
		all.Go(func() { work(next) })
	}
	all.Wait()
}

// draw returns a random number below n.
func (f *Flood) draw(n int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.random.IntN(n)
}
