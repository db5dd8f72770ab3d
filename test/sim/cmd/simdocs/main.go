// Command simdocs simulates all scenarios and writes the tables and plots of
// docs/simulation.md.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"

	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
	"github.com/supernode-ha/supernode/services/scheduler/sim/report"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:])
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "simdocs:", err)
		os.Exit(1)
	}
}

type options struct {
	docs, before, measured, save string
	seeds                        int
	largest                      int
	policies                     []string
}

// scheduler is the policy that the scheduler uses.
const scheduler = "swarm"

func parse(args []string) (options, error) {
	o := options{policies: policy.Names()}
	f := flag.NewFlagSet("simdocs", flag.ContinueOnError)
	f.StringVar(&o.docs, "docs", "docs", "directory of simulation.md; the plots come into sim below")
	f.StringVar(&o.before, "before", "test/sim/before.json", "file with rows of an earlier policy, to show beside the others; empty: none")
	f.StringVar(&o.measured, "measured", "test/sim/measured.json", "file with what was measured on real links")
	f.StringVar(&o.save, "save", "", "write the scheduler's rows to this file, as those of the policy before, and no documents")
	f.IntVar(&o.seeds, "seeds", 9, "how many runs of which the median is shown; at most 3 above 100 peers, 1 above 1,000")
	f.IntVar(&o.largest, "largest", 100_000, "the most peers of a scenario")
	f.Func("policy", "names, separated by commas; without: all", func(s string) error {
		o.policies = strings.Split(s, ",")
		return nil
	})
	err := f.Parse(args)
	return o, err
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	r := runner{options: o, log: os.Stderr}
	if o.save != "" {
		return r.save(ctx)
	}
	var d report.Document
	if d.Measured, err = report.LoadMeasured(o.measured); err != nil {
		return err
	}
	if d.Benched, err = r.benched(ctx, d.Measured); err != nil {
		return err
	}
	if d.Queues, err = r.queues(ctx); err != nil {
		return err
	}
	if d.Rows, err = r.all(ctx, o.policies); err != nil {
		return err
	}
	if o.before != "" {
		before, err := report.Load(o.before)
		if err != nil {
			return err
		}
		d.Rows = inOrder(append(before, d.Rows...))
	}
	if err := report.Plots(filepath.Join(o.docs, "sim"), d.Rows); err != nil {
		return err
	}
	return report.Write(filepath.Join(o.docs, "simulation.md"), d)
}
