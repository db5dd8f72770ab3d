// Command bench-swarm measures the control plane of a supernode: simulated peers
// make the calls that dfget makes, and no bytes of files are moved. It ends with 1
// if a peer does not get its file.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/limits"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/soak"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/table"
	"github.com/supernode-ha/supernode/test/stage"
)

func main() {
	ctx, stop := lifecycle.SignalContext(context.Background())
	err := start(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench-swarm:", err)
		os.Exit(1)
	}
}

func start(ctx context.Context, args []string, out io.Writer) error {
	cfg, err := parse(args)
	if err != nil {
		return err
	}
	if err := limits.MakeRoom(cfg.scenario.Peers); err != nil {
		return err
	}
	if cfg.soak > 0 {
		return soakFor(ctx, cfg, out)
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
		one := run.Config{Scenario: cfg.scenario, Server: cfg.server, Timeout: cfg.timeout}
		one.Scenario.Seed += uint64(i)
		var result run.Result
		if err := stage.Run(ctx, "bench-swarm", os.Stderr, func(s *stage.Stage) { result = run.Run(s, one) }); err != nil {
			return err
		}
		if err := table.Row(out, one.Scenario, cfg.name(), result); err != nil {
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
