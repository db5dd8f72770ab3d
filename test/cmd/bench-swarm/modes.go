package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/flood"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/soak"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/table"
	"github.com/supernode-ha/supernode/test/stage"
)

// carryOut carries out the mode that is configured, and writes its table.
func carryOut(ctx context.Context, cfg config, out io.Writer) error {
	switch {
	case cfg.soak > 0:
		return soakFor(ctx, cfg, out)
	case len(cfg.floods) > 0:
		return flooded(ctx, cfg, out)
	case cfg.compare:
		return compared(ctx, cfg, out)
	}
	return bench(ctx, cfg, out)
}

// bench carries out all runs. A peer that does not get its file does not end them,
// but makes them fail.
func bench(ctx context.Context, cfg config, out io.Writer) error {
	if err := table.Head(out); err != nil {
		return err
	}
	var wrong error
	for i := range cfg.runs {
		sc := seeded(cfg.scenario, i)
		result, err := runOnce(ctx, cfg, sc)
		if err != nil {
			return err
		}
		if err := table.Row(out, sc, cfg.name(), result); err != nil {
			return err
		}
		wrong = errors.Join(wrong, result.Err)
	}
	return wrong
}

// compared carries out each run twice, first with the same peers without faults.
func compared(ctx context.Context, cfg config, out io.Writer) error {
	if err := table.ComparedHead(out); err != nil {
		return err
	}
	var wrong error
	for i := range cfg.runs {
		sc := seeded(cfg.scenario, i)
		var healthy time.Duration // 0 in the first of the two
		for _, one := range []scenario.Scenario{run.Healthy(sc), sc} {
			result, err := runOnce(ctx, cfg, one)
			if err != nil {
				return err
			}
			last := run.LastHealthy(sc, result)
			if err := table.ComparedRow(out, one, cfg.name(), result, last, healthy); err != nil {
				return err
			}
			healthy = last
			wrong = errors.Join(wrong, result.Err)
		}
	}
	return wrong
}

// seeded returns the scenario of a run, from 0.
func seeded(sc scenario.Scenario, number int) scenario.Scenario {
	sc.Seed += uint64(number)
	return sc
}

func runOnce(ctx context.Context, cfg config, sc scenario.Scenario) (run.Result, error) {
	one := run.Config{Scenario: sc, Server: cfg.server, Timeout: cfg.timeout}
	var result run.Result
	err := stage.Run(ctx, "bench-swarm", os.Stderr, func(s *stage.Stage) { result = run.Run(s, one) })
	return result, err
}

// flooded sends the floods, each to a supernode of its own. The first one is what
// the others are compared with, if it is none.
func flooded(ctx context.Context, cfg config, out io.Writer) error {
	if err := table.FloodHead(out); err != nil {
		return err
	}
	var wrong error
	var undisturbed *run.FloodResult
	for _, kind := range cfg.floods {
		one := run.FloodConfig{
			Config: run.Config{Scenario: cfg.scenario, Server: cfg.server, Timeout: cfg.timeout},
			Kind:   kind, Size: cfg.floodSize, Settle: cfg.settle,
		}
		var result run.FloodResult
		if err := stage.Run(ctx, "bench-swarm", os.Stderr, func(s *stage.Stage) { result = run.Flood(s, one) }); err != nil {
			return err
		}
		if kind == flood.None {
			undisturbed = &result
		}
		if err := table.FloodRow(out, cfg.scenario, cfg.name(), result, undisturbed); err != nil {
			return err
		}
		wrong = errors.Join(wrong, result.Err)
	}
	return wrong
}

func soakFor(ctx context.Context, cfg config, out io.Writer) error {
	one := soak.Config{
		Scenario: cfg.scenario, Server: cfg.server, Lasts: cfg.soak, Every: cfg.every, Interval: cfg.report, Churn: cfg.churn,
	}
	if err := table.SoakHead(out); err != nil {
		return err
	}
	var wrong error
	err := stage.Run(ctx, "bench-swarm", os.Stderr, func(s *stage.Stage) {
		wrong = soak.Run(s, one, func(r soak.Report) error { return table.SoakRow(out, r) })
	})
	return errors.Join(err, wrong)
}
