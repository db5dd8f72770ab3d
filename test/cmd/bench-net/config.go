package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/scenario"
)

// config is what is run, and how often.
type config struct {
	scenarios []scenario.Scenario
	runs      int
	run       run.Config
	client    string // what the table calls it
}

// flags are those that are not fields of a configuration as they stand.
type flags struct {
	rate, server, size, localLimit float64
	rates, bin, more               string
}

func parse(args []string) (config, error) {
	var cfg config
	var f flags
	sc := scenario.Scenario{}
	set := flag.NewFlagSet("bench-net", flag.ContinueOnError)
	set.IntVar(&sc.Hosts, "hosts", 0, "clients, each on a host of its own; 0 runs the two main scenarios, 20 × 40 and 40 × 20 Mbit/s")
	set.Float64Var(&f.rate, "rate", 40, "rate of each host's link, in Mbit/s and in each direction")
	set.StringVar(&f.rates, "rates", "", "different rates: part:rate for parts of the hosts, such as 0.8:100,0.2:10")
	set.Float64Var(&f.server, "server", 80, "rate of the link of each supernode, in Mbit/s")
	set.Float64Var(&f.size, "size", 50, "size of the file in MB")
	set.DurationVar(&sc.Arrive, "arrive", 0, "time over which the clients begin, evenly; 0 is all at once")
	set.Float64Var(&sc.Unreachable, "unreachable", 0, "share of the hosts whose upload port others cannot reach")
	set.Float64Var(&sc.Crash, "crash", 0, "share of the hosts whose client and upload server are killed in the middle")
	set.IntVar(&sc.Supernodes, "supernodes", 1, "supernodes, 1 or 3; 3 share an etcd")
	set.Float64Var(&sc.KillOwner, "kill-owner", 0, "kill the task's owner when this share of all bytes has arrived")
	set.Uint64Var(&sc.Seed, "seed", 1, "draws which hosts are slow, unreachable and killed; the second run has the next one")
	set.IntVar(&cfg.runs, "runs", 1, "runs of each scenario")
	set.StringVar(&cfg.run.Dfget, "dfget", "", "a real dfget to run in the place of our own client")
	set.Float64Var(&f.localLimit, "local-limit", 0, "limit of each download in MiB/s; 0 is none (dfget's own default is 20)")
	set.StringVar(&f.bin, "bin", "", "directory with the supernode command (default: that of this command)")
	set.StringVar(&f.more, "supernode-flags", "", "further arguments of the supernodes, separated by spaces")
	if err := set.Parse(args); err != nil {
		return config{}, err
	}
	if set.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	sc.Server, sc.Size = int64(f.server*scenario.Mbit), int64(f.size*scenario.MB)
	if err := cfg.complete(sc, f); err != nil {
		return config{}, err
	}
	return cfg, nil
}

func (c *config) complete(sc scenario.Scenario, f flags) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	own := filepath.Dir(self)
	if f.bin == "" {
		f.bin = own
	}
	c.run.Etcd, c.run.Supernodes = cluster.Built(own), cluster.Built(f.bin)
	c.run.Flags, c.run.LocalLimit = strings.Fields(f.more), int64(f.localLimit*(1<<20))
	c.client = "own"
	if c.run.Dfget != "" {
		c.client = filepath.Base(c.run.Dfget)
	}
	if c.run.LocalLimit > 0 {
		c.client += fmt.Sprintf(", %g MiB/s", f.localLimit)
	}
	sc.Rates = []scenario.Share{{Part: 1, Rate: int64(f.rate * scenario.Mbit)}}
	if f.rates != "" {
		if sc.Rates, err = scenario.ParseRates(f.rates); err != nil {
			return err
		}
	}
	if sc.Hosts > 0 {
		c.scenarios = []scenario.Scenario{sc}
	} else {
		for _, main := range []struct{ hosts, rate int }{{20, 40}, {40, 20}} {
			sc.Hosts, sc.Rates = main.hosts, []scenario.Share{{Part: 1, Rate: int64(main.rate) * scenario.Mbit}}
			c.scenarios = append(c.scenarios, sc)
		}
	}
	if c.runs < 1 {
		return errors.New("there must be at least one run")
	}
	for _, sc := range c.scenarios {
		if err := sc.Check(); err != nil {
			return err
		}
	}
	return nil
}
