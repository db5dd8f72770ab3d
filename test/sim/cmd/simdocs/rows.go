package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/sim"
	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
	"github.com/supernode-ha/supernode/services/scheduler/sim/report"
	"github.com/supernode-ha/supernode/services/scheduler/sim/scenario"
)

// headers is the share of headers in what real links carry.
const headers = 0.045

// runner simulates what the tables show.
type runner struct {
	options options
	log     io.Writer
}

// save writes the scheduler's rows as those of the policy before.
func (r *runner) save(ctx context.Context) error {
	rows, err := r.all(ctx, []string{scheduler})
	if err != nil {
		return err
	}
	for i := range rows {
		rows[i].Policy = "before"
	}
	return report.Save(r.options.save, rows)
}

// all simulates every scenario with each of the policies.
func (r *runner) all(ctx context.Context, policies []string) ([]report.Row, error) {
	var rows []report.Row
	for _, s := range scenario.All() {
		for _, name := range policies {
			if s.Count() > r.options.largest {
				continue
			}
			row, err := r.simulate(ctx, s, name, sim.Defaults(), r.seeds(s))
			if err != nil {
				return nil, err
			}
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// queues simulates swarms of equal peers with different queues.
func (r *runner) queues(ctx context.Context) ([]report.Row, error) {
	swept := []string{"100-50MB", "100-200MB", "1000-50MB", "1000-200MB", "10000-50MB"}
	var rows []report.Row
	for _, s := range scenario.All() {
		if !slices.Contains(swept, s.Name) || s.Count() > r.options.largest {
			continue
		}
		for _, queue := range []time.Duration{55, 20, 1} {
			cfg := sim.Defaults()
			cfg.Queue = queue * time.Millisecond
			row, err := r.simulate(ctx, s, scheduler, cfg, 1)
			if err != nil {
				return nil, err
			}
			row.Queue = float64(queue)
			rows = append(rows, row)
		}
	}
	return rows, nil
}

// benched simulates the scenarios that are measured on real links, with headers.
func (r *runner) benched(ctx context.Context, measured map[string]report.Measured) ([]report.Row, error) {
	var rows []report.Row
	for _, s := range scenario.All() {
		if _, found := measured[s.Name]; !found {
			continue
		}
		cfg := sim.Defaults()
		cfg.Overhead = headers
		row, err := r.simulate(ctx, s, scheduler, cfg, r.seeds(s))
		if err != nil {
			return nil, err
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// seeds is how often a scenario is simulated.
func (r *runner) seeds(s scenario.Scenario) int {
	const many, fewer = 100, 3
	switch {
	case s.Large:
		return 1
	case s.Count() > many:
		return min(r.options.seeds, fewer)
	}
	return r.options.seeds
}

func (r *runner) simulate(ctx context.Context, s scenario.Scenario, name string, cfg sim.Config, seeds int) (report.Row, error) {
	began := time.Now()
	results := make([]*sim.Result, seeds)
	for i := range results {
		p, err := policy.New(name, policy.Options{})
		if err != nil {
			return report.Row{}, err
		}
		if results[i], err = sim.Run(ctx, s, p, cfg); err != nil {
			return report.Row{}, err
		}
		cfg.Seed++
	}
	row := report.Sum(s, results)
	_, err := fmt.Fprintf(r.log, "%-15s %-6s last %.2f, copies %.2f, took %s\n",
		s.Name, name, row.Last, row.Copies, time.Since(began).Round(time.Millisecond))
	return row, err
}

// inOrder puts rows that were loaded to those of the same scenario.
func inOrder(rows []report.Row) []report.Row {
	var sorted []report.Row
	for _, s := range scenario.All() {
		for _, row := range rows {
			if row.Scenario == s.Name {
				sorted = append(sorted, row)
			}
		}
	}
	return sorted
}
