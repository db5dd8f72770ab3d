package run

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/flood"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/histogram"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/limits"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/stage"
)

// FloodConfig is a flood, and what it is sent to.
type FloodConfig struct {
	Config
	Kind flood.Kind
	// Size is the number of its requests, or of its connections; 0 is the default
	// of the kind.
	Size int
	// Settle is the time from the last end until the memory is measured again.
	Settle time.Duration
}

// floodLimit bounds how long a flood is sent in one pass.
const floodLimit = 2 * time.Minute

// passes is how often a flood is sent to one supernode: memory that grows each time
// is never given back.
const passes = 2

// FloodResult is what a flood did, and what ordinary peers saw meanwhile.
type FloodResult struct {
	Kind flood.Kind
	// Pieces is the number of pieces of the first file.
	Pieces int
	// Sent is the number of requests, or of connections if they have none. Outcomes
	// counts them by the answer, Latency is how long the answers took.
	Sent     int64
	Outcomes map[string]int64
	Latency  histogram.Snapshot
	// SourceRequests is the number of requests for URLs of which there is no file.
	SourceRequests int64
	// Passes are those of the same flood, one directly after the other.
	Passes []Pass

	// Before is what the supernode used before the first pass, After some time after
	// the last one.
	Before, After server.Usage

	// Err says why peers did not get their file, or the flood could not be sent, and
	// what the supernode logged.
	Err error
}

// flooded is a supernode that is flooded.
type flooded struct {
	cfg       FloodConfig
	supernode *server.Server
	flood     *flood.Flood
}

// Flood sends a flood on a stage while peers download, as often as there are
// passes. What cannot be measured fails the stage.
func Flood(s *stage.Stage, cfg FloodConfig) FloodResult {
	ctx, cancel := context.WithTimeoutCause(s.Context(), cfg.Timeout, fmt.Errorf("the flood takes longer than %s", cfg.Timeout))
	defer cancel()
	result, err := floodTwice(ctx, s, cfg)
	if err != nil {
		s.Fatalf("%v", err)
	}
	return result
}

func floodTwice(ctx context.Context, s *stage.Stage, cfg FloodConfig) (FloodResult, error) {
	k := &flooded{cfg: cfg, supernode: server.Start(s, cfg.Server)}
	result := FloodResult{Kind: cfg.Kind}
	source, err := missingSource(s)
	if err != nil {
		return result, err
	}
	if k.flood, err = newFlood(cfg, k.supernode, source.Prefix); err != nil {
		return result, err
	}
	if result.Pieces, err = server.WarmUp(ctx, k.supernode, cfg.Scenario.Tasks); err != nil {
		return result, err
	}
	if result.Before, err = k.supernode.Measure(ctx); err != nil {
		return result, fmt.Errorf("measuring the supernode before the flood: %w", err)
	}
	for range passes {
		pass, err := k.pass(ctx)
		if err != nil {
			return result, err
		}
		result.Passes = append(result.Passes, pass)
		result.Err = errors.Join(result.Err, pass.err)
	}
	if !pace.Pause(ctx, cfg.Settle) {
		return result, context.Cause(ctx)
	}
	if result.After, err = k.supernode.Measure(ctx); err != nil {
		return result, fmt.Errorf("measuring the supernode after the flood: %w", err)
	}
	tally := k.flood.Tally()
	result.Sent, result.Outcomes, result.Latency = tally.Sent(), tally.Outcomes(), tally.Latency()
	result.SourceRequests = source.Requests()
	result.Err = errors.Join(result.Err, k.supernode.Check())
	return result, nil
}

// missingSource starts a source without files. It ends before the supernode does.
func missingSource(s *stage.Stage) (*flood.Missing, error) {
	source, err := flood.StartMissing()
	if err != nil {
		return nil, err
	}
	s.Cleanup(func() {
		if err := source.Close(); err != nil {
			s.Errorf("%v", err)
		}
	})
	return source, nil
}

func newFlood(cfg FloodConfig, supernode *server.Server, missing string) (*flood.Flood, error) {
	size := cfg.Size
	if size == 0 {
		size = cfg.Kind.Size()
	}
	if cfg.Kind == flood.Idle {
		free, err := limits.Free(cfg.Scenario.Peers)
		if err != nil {
			return nil, err
		}
		size = min(size, free)
	}
	file := supernode.File(0)
	return flood.New(flood.Config{
		Kind: cfg.Kind, Size: size, Address: supernode.Address, URL: file.URL, MD5: file.MD5, Missing: missing, Seed: cfg.Scenario.Seed,
	})
}
