// Package soak keeps a number of peers alive for a long time: they arrive, download
// the newest file, serve it, leave, and are replaced by others. Meanwhile it
// reports what the supernode uses, and how long it takes to answer.
package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/peer"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/stage"
)

// mostErrors is how many errors of peers are kept.
const mostErrors = 5

// Config is what runs.
type Config struct {
	// Scenario says how many peers are alive, over what time the first of them
	// arrive, and what goes wrong. Tasks is the number of files, one after the other.
	Scenario scenario.Scenario
	Server   server.Config
	// Lasts is how long all of it lasts. A new file replaces the last one every
	// Every, and there is a report every Interval.
	Lasts, Every, Interval time.Duration
	// Churn is the number of peers that leave in a second.
	Churn float64
}

// soak is what there is while it lasts.
type soak struct {
	cfg       Config
	supernode *server.Server
	deps      peer.Deps

	file    atomic.Int64 // number of the newest file
	numbers atomic.Int64 // of peers
	alive   atomic.Int64
	counts  counts

	mu   sync.Mutex // guards errs
	errs []error
}

// counts are of peers.
type counts struct{ arrived, finished, crashed, failed atomic.Int64 }

// Run runs it on a stage and calls tell with every report. It returns an error if
// peers did not get their file, or if the supernode logged an error. What cannot
// be measured fails the stage.
func Run(s *stage.Stage, cfg Config, tell func(Report) error) error {
	k := &soak{
		cfg: cfg, supernode: server.Start(s, cfg.Server), deps: peer.Deps{Record: &record.Recorder{}, Directory: peer.NewDirectory()},
	}
	if _, err := server.WarmUpOne(s.Context(), k.supernode, 0); err != nil {
		s.Fatalf("%v", err)
	}
	// A deadline would end a connection attempt a moment before it ends the context,
	// and the peer would count as failed.
	ctx, stop := context.WithCancel(s.Context())
	defer stop()
	defer time.AfterFunc(cfg.Lasts, stop).Stop()
	var work sync.WaitGroup
	for slot := range cfg.Scenario.Peers {
		work.Go(func() { k.fill(ctx, slot) })
	}
	work.Go(func() {
		if err := k.renew(ctx); err != nil {
			k.note(err)
			stop()
		}
	})
	err := k.report(ctx, tell)
	stop()
	work.Wait()
	if err != nil {
		s.Fatalf("%v", err)
	}
	if failed := k.counts.failed.Load(); failed > 0 {
		k.errs = append(k.errs, fmt.Errorf("%d peers failed", failed))
	}
	return errors.Join(append(k.errs, k.supernode.Check())...)
}

// fill keeps one of the peers alive.
func (k *soak) fill(ctx context.Context, slot int) {
	sc := k.cfg.Scenario
	random := rand.New(rand.NewPCG(sc.Seed, uint64(slot))) //nolint:gosec // a schedule, no secret
	if !pace.Pause(ctx, sc.Ramp*time.Duration(slot)/time.Duration(sc.Peers)) {
		return
	}
	for ctx.Err() == nil {
		k.live(ctx, random)
	}
}

// live is the life of a peer. It leaves when its time is over and its download is.
func (k *soak) live(ctx context.Context, random *rand.Rand) {
	sc := k.cfg.Scenario
	drawn, file := sc.DrawOne(random), k.supernode.File(int(k.file.Load()))
	mean := float64(sc.Peers) / k.cfg.Churn * float64(time.Second)
	over := time.Now().Add(time.Duration(random.ExpFloat64() * mean))
	p, err := peer.New(peer.Config{
		Address: k.supernode.Address, Number: int(k.numbers.Add(1)), URL: file.URL, MD5: file.MD5, PieceTime: sc.PieceTime, Fail: sc.Fail,
		CrashAfter: drawn.CrashAfter, Unreachable: drawn.Unreachable, Lies: drawn.Lies, Seed: drawn.Seed,
	}, k.deps)
	if err != nil {
		k.note(err)
		return
	}
	k.counts.arrived.Add(1)
	k.alive.Add(1)
	defer k.alive.Add(-1)
	switch err := p.Download(ctx); {
	case errors.Is(err, peer.ErrCrashed):
		k.counts.crashed.Add(1)
		return
	case err == nil:
		k.counts.finished.Add(1)
	case ctx.Err() == nil:
		k.counts.failed.Add(1)
		k.note(err)
	}
	_ = pace.Pause(ctx, time.Until(over)) // at the end all leave
	if err := p.Leave(context.WithoutCancel(ctx)); err != nil {
		k.deps.Record.Refused.Add(1)
		k.note(err)
	}
}

// renew replaces the newest file again and again. The supernode has a whole copy
// of a file before the first peer asks for it.
func (k *soak) renew(ctx context.Context) error {
	for number := 1; number < k.cfg.Scenario.Tasks; number++ {
		if !pace.Pause(ctx, k.cfg.Every) {
			return nil
		}
		_, err := server.WarmUpOne(ctx, k.supernode, number)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // it is over
		case err != nil:
			return err
		}
		k.file.Store(int64(number))
	}
	return nil
}

// note keeps the first errors.
func (k *soak) note(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.errs) < mostErrors {
		k.errs = append(k.errs, err)
	}
}
