// Command sim simulates downloads and prints a line for each run.
//
//	sim -scenario 20x40,40x20 -policy swarm,v1 -seeds 5
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/sim"
	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
	"github.com/supernode-ha/supernode/services/scheduler/sim/scenario"
)

func main() {
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	out := &printer{to: os.Stdout}
	err := run(ctx, os.Args[1:], out)
	if err == nil {
		err = out.err
	}
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "sim:", err)
		os.Exit(1)
	}
}

// printer writes to a stream and keeps the first error.
type printer struct {
	to  io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if _, err := fmt.Fprintf(p.to, format, args...); err != nil && p.err == nil {
		p.err = fmt.Errorf("printing: %w", err)
	}
}

// options are the command's flags.
type options struct {
	scenarios, policies string
	seeds               int
	verbose             bool
	profile             string
	pieceMiB            int
	policy              policy.Options
	config              sim.Config
}

func parse(args []string) (options, error) {
	o := options{config: sim.Defaults()}
	c := &o.config
	f := flag.NewFlagSet("sim", flag.ContinueOnError)
	f.StringVar(&o.scenarios, "scenario", "20x40", "names, separated by commas; all: those that take seconds; list: show them")
	f.StringVar(&o.policies, "policy", "swarm,v1", "names, separated by commas")
	f.Uint64Var(&c.Seed, "seed", c.Seed, "the first seed")
	f.IntVar(&o.seeds, "seeds", 1, "how many runs, with one seed after the other")
	f.BoolVar(&o.verbose, "v", false, "print pieces a second, and the times of the peers, too")
	f.StringVar(&o.profile, "cpuprofile", "", "write a CPU profile to this file")
	f.IntVar(&o.pieceMiB, "piece", 0, "size of a piece in MiB, 0 for the policy's own")
	f.IntVar(&o.policy.Up, "up", 0, "pieces that a peer sends at the same time, 0 for the policy's own")
	f.IntVar(&o.policy.Down, "down", 0, "pieces that a peer fetches at the same time, 0 for the policy's own")
	f.DurationVar(&c.Step, "step", c.Step, "time between two looks at all rates, 0 for a hundredth of a piece's")
	f.DurationVar(&c.RoundTrip, "rtt", c.RoundTrip, "round trip of idle links")
	f.DurationVar(&c.Queue, "queue", c.Queue, "what a full link adds to that in the mean")
	f.DurationVar(&c.Penalty, "penalty", c.Penalty, "time that each transfer loses while TCP starts")
	f.DurationVar(&c.Serve, "serve", c.Serve, "time of a call in the gateway and the scheduler")
	f.DurationVar(&c.Write, "write", c.Write, "mean time to write a piece")
	f.Float64Var(&c.Overhead, "overhead", c.Overhead, "share of headers in what links carry; real ones have 0.045")
	f.Float64Var(&c.Unfair, "unfair", c.Unfair, "how unevenly transfers share a link: deviation of the logarithm of their weights")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	o.policy.PieceSize = int32(o.pieceMiB) << 20
	return o, nil
}

func run(ctx context.Context, args []string, out *printer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	if o.scenarios == "list" {
		for _, s := range scenario.All() {
			out.printf("%-15s %s\n", s.Name, s.Title)
		}
		return nil
	}
	if o.profile != "" {
		file, err := os.Create(o.profile)
		if err != nil {
			return fmt.Errorf("creating the profile: %w", err)
		}
		defer file.Close() //nolint:errcheck // a profile that is cut off shows that
		if err := pprof.StartCPUProfile(file); err != nil {
			return fmt.Errorf("starting the profile: %w", err)
		}
		defer pprof.StopCPUProfile()
	}
	list, err := choose(o.scenarios)
	if err != nil {
		return err
	}
	out.printf("%-15s %-6s %4s %7s %6s %6s %6s %6s %8s %5s %5s %7s\n",
		"scenario", "policy", "seed", "last s", "last", "p50", "span", "copies", "calls/s", "fail", "dup", "took")
	for _, s := range list {
		for name := range strings.SplitSeq(o.policies, ",") {
			for i := range o.seeds {
				cfg := o.config
				cfg.Seed += uint64(i)
				if err := one(ctx, s, name, o, cfg, out); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func choose(names string) ([]scenario.Scenario, error) {
	var list []scenario.Scenario
	for name := range strings.SplitSeq(names, ",") {
		if name == "all" {
			for _, s := range scenario.All() {
				if !s.Large {
					list = append(list, s)
				}
			}
			continue
		}
		s, found := scenario.Find(name)
		if !found {
			return nil, fmt.Errorf("no scenario is named %q", name)
		}
		list = append(list, s)
	}
	return list, nil
}

// perLine is how many bins of arrivals are printed as one number.
const perLine = 5

// one runs a scenario and prints its line: times over the bound, where span is
// that from the first landing to the last piece.
func one(ctx context.Context, s scenario.Scenario, name string, o options, cfg sim.Config, out *printer) error {
	p, err := policy.New(name, o.policy)
	if err != nil {
		return err
	}
	began := time.Now()
	r, err := sim.Run(ctx, s, p, cfg)
	if err != nil {
		return fmt.Errorf("policy %s, seed %d: %w", name, cfg.Seed, err)
	}
	end := ""
	if r.Left > 0 {
		end = fmt.Sprintf(" %d peers not done after %s", r.Left, r.LastPiece.Round(time.Second))
	}
	out.printf("%-15s %-6s %4d %7.2f %6.2f %6.2f %6.2f %6.2f %8.0f %5d %5d %7s%s\n",
		s.Name, name, cfg.Seed, r.Last().Seconds(), r.Ratio(r.Last()), r.Ratio(r.Quantile(0.5)), r.Ratio(r.Span()), r.Copies,
		float64(r.Calls)/r.LastPiece.Seconds(), r.Failures, r.Ignored, time.Since(began).Round(time.Millisecond), end)
	if !o.verbose {
		return nil
	}
	out.printf("  bound %s, %d pieces of %d KiB, first landing %s, %d events, %d times rates\n",
		r.Bound, r.PieceCount, r.PieceSize>>10, r.FirstLanded.Round(time.Millisecond), r.Events, r.Solves)
	if l := r.Looked; l.Choices > 0 {
		out.printf("  %d choices, %.1f pieces and %.1f holders looked at for each\n",
			l.Choices, float64(l.Pieces)/float64(l.Choices), float64(l.Holders)/float64(l.Choices))
	}
	out.printf("  peers finished (s):")
	for _, share := range []float64{0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1} {
		out.printf(" %g%% %.2f", share*100, r.Quantile(share).Seconds())
	}
	ph := r.Phases()
	plateau := ph.Plateau * float64(r.PieceSize) / s.Capacity()
	out.printf("\n  ramp %s, plateau %.0f pieces/s (%.2f of the links), end game %s; downlinks idle %.2f of the time\n",
		ph.Ramp, ph.Plateau, plateau, ph.End.Round(time.Millisecond), r.Idle)
	out.printf("  pieces per %s:", perLine*r.Bin)
	for bins := range slices.Chunk(r.Pieces, perLine) {
		sum := 0
		for _, n := range bins {
			sum += n
		}
		out.printf(" %d", sum)
	}
	out.printf("\n")
	return nil
}
