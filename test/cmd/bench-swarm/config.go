package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/flood"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/server"
)

// megabyte is a million bytes.
const megabyte = 1_000_000

// config is what is run.
type config struct {
	scenario scenario.Scenario
	server   server.Config
	runs     int
	timeout  time.Duration

	// soak is how long the soak lasts; 0 is none. The others are its parameters.
	soak, every, report time.Duration
	churn               float64

	// compare runs each scenario with healthy peers first.
	compare bool

	// floods are sent in the place of runs. The others are their parameters.
	floods    []flood.Kind
	floodSize int
	settle    time.Duration
}

// The defaults of runs in which peers download during a flood.
const (
	floodedPeers     = 20
	floodedPieceTime = 300 * time.Millisecond
)

// flags are those that are not fields of a configuration as they stand.
type flags struct {
	size            float64
	bin, more, pids string
	floods          string
	given           map[string]bool // those that are set
}

func parse(args []string) (config, error) {
	var cfg config
	var f flags
	set := flag.NewFlagSet("bench-swarm", flag.ContinueOnError)
	sc := &cfg.scenario
	set.IntVar(&sc.Peers, "peers", 1000, "peers, spread evenly over the tasks; 20 with -flood")
	set.IntVar(&sc.Tasks, "tasks", 1, "files")
	set.IntVar(&sc.Pieces, "pieces", 51, "pieces of each file")
	set.Float64Var(&f.size, "size", 0, "size of each file in MB, in the place of -pieces: it has as many pieces as the supernode would cut it in")
	set.DurationVar(&sc.Ramp, "ramp", 0, "time over which the peers arrive, evenly; 0 is all at once")
	set.DurationVar(&sc.PieceTime, "piece-time", 0, "time that a peer needs to download a piece; 300ms with -flood")
	set.Float64Var(&sc.Fail, "fail", 0, "share of the downloads of pieces that fail and are reported so")
	set.Float64Var(&sc.Crash, "crash", 0, "share of the peers that end in the middle and tell nothing")
	set.Float64Var(&sc.Unreachable, "unreachable", 0, "share of the peers from which others cannot download")
	set.Float64Var(&sc.Lie, "lie", 0, "share of the peers that report pieces that they do not have, or that there are not")
	set.Uint64Var(&sc.Seed, "seed", 1, "draws what goes wrong; the second run has the next one")
	set.IntVar(&cfg.runs, "runs", 1, "runs, each with a supernode of its own")
	set.DurationVar(&cfg.timeout, "timeout", 10*time.Minute, "time that a run may take")
	set.StringVar(&f.bin, "bin", "", "directory with the commands to measure (default: that of this command)")
	set.StringVar(&f.more, "supernode-flags", "", "further arguments of the supernode, separated by spaces")
	set.IntVar(&cfg.server.Processes, "processes", 1, "1 for a supernode, 4 for gateway, scheduler, cdn and registry (and an etcd) as separate processes")
	set.StringVar(&cfg.server.Address, "address", "", "host:port of a supernode that runs already, in the place of starting one; loopback or 198.18.0.0/15 only")
	set.StringVar(&f.pids, "pid", "", "process ids of that supernode, separated by commas, to measure what it uses")
	set.StringVar(&cfg.server.URL, "url", "", "beginning of the URLs of the files for that supernode: the number of the file, from 0, is appended (default: a source of this process)")
	set.DurationVar(&cfg.soak, "soak", 0, "keep the peers alive for this time, arriving and leaving, in the place of runs")
	set.Float64Var(&cfg.churn, "churn", 0, "peers that leave in a second of a soak and are replaced (default: each stays for a minute in the mean)")
	set.DurationVar(&cfg.every, "every", 30*time.Second, "time after which a new file replaces the last one in a soak")
	set.DurationVar(&cfg.report, "report", 10*time.Second, "time between two rows of a soak")
	set.BoolVar(&cfg.compare, "compare", false, "run the same peers twice, first without -crash, -unreachable and -lie, and compare the last peer that is healthy in both")
	set.StringVar(&f.floods, "flood", "", "send floods while the peers download, in the place of runs: some of none, registrations, urls, pulls, cut and idle, separated by commas, or all; none, if it is first, is what the others are compared with")
	set.IntVar(&cfg.floodSize, "flood-size", 0, "requests of a flood, or connections of idle (default: 10000, idle 2000)")
	set.DurationVar(&cfg.settle, "settle", 30*time.Second, "time after a flood until the memory is measured again")
	if err := set.Parse(args); err != nil {
		return config{}, err
	}
	if set.NArg() > 0 {
		return config{}, fmt.Errorf("unexpected argument %q", set.Arg(0))
	}
	f.given = make(map[string]bool)
	set.Visit(func(one *flag.Flag) { f.given[one.Name] = true })
	if err := cfg.complete(f); err != nil {
		return config{}, err
	}
	return cfg, nil
}

func (c *config) complete(f flags) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding the commands: %w", err)
	}
	own := filepath.Dir(self)
	if f.bin == "" {
		f.bin = own
	}
	c.server.Etcd, c.server.Supernodes = cluster.Built(own), cluster.Built(f.bin)
	c.server.Flags = strings.Fields(f.more)
	if c.server.PIDs, err = parsePIDs(f.pids); err != nil {
		return err
	}
	if f.size < 0 || c.runs < 1 || c.timeout <= 0 {
		return errors.New("the size of a file must not be negative, and there must be a run and time for it")
	}
	if f.size > 0 {
		c.server.Size = int64(f.size * megabyte)
		c.scenario.Pieces = int(piece.Count(c.server.Size, piece.SizeFor(c.server.Size)))
	}
	if c.soak != 0 {
		if err := c.completeSoak(); err != nil {
			return err
		}
	}
	if c.compare {
		if err := c.checkComparison(); err != nil {
			return err
		}
	}
	if f.floods != "" {
		if err := c.completeFloods(f); err != nil {
			return err
		}
	}
	c.server.Tasks, c.server.Pieces = c.scenario.Tasks, c.scenario.Pieces
	return errors.Join(c.scenario.Check(), c.server.Check())
}

func (c *config) completeSoak() error {
	const stay = 60 // seconds
	switch {
	case c.soak < 0 || c.every <= 0 || c.report <= 0:
		return errors.New("the times of a soak must be positive")
	case c.churn < 0:
		return errors.New("the rate at which peers leave must not be negative")
	case c.scenario.Tasks != 1:
		return errors.New("in a soak the number of tasks follows from the time and -every")
	}
	if c.churn == 0 {
		c.churn = float64(c.scenario.Peers) / stay
	}
	c.scenario.Tasks = int((c.soak-1)/c.every) + 1
	return nil
}

func (c *config) checkComparison() error {
	switch {
	case c.soak != 0:
		return errors.New("a soak cannot be compared")
	case run.Healthy(c.scenario) == c.scenario:
		return errors.New("-compare needs -crash, -unreachable or -lie: all peers are healthy")
	}
	return nil
}

func (c *config) completeFloods(f flags) error {
	switch {
	case c.soak != 0 || c.compare || c.runs != 1:
		return errors.New("-flood cannot be given together with -soak, -compare or -runs")
	case c.floodSize < 0 || c.settle < 0:
		return errors.New("the size of a flood and the time after it must not be negative")
	}
	if !f.given["peers"] {
		c.scenario.Peers = floodedPeers
	}
	if !f.given["piece-time"] {
		c.scenario.PieceTime = floodedPieceTime
	}
	var err error
	c.floods, err = flood.Parse(f.floods)
	return err
}

func parsePIDs(text string) ([]int, error) {
	if text == "" {
		return nil, nil
	}
	var pids []int
	for field := range strings.SplitSeq(text, ",") {
		pid, err := strconv.Atoi(field)
		if err != nil || pid < 1 {
			return nil, fmt.Errorf("-pid: %q is no process id", field)
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// name is what the table calls the supernode.
func (c config) name() string {
	name := "bundle"
	switch {
	case c.server.Address != "":
		name = c.server.Address
	case c.server.Processes > 1:
		name = fmt.Sprintf("%d processes", c.server.Processes)
	}
	if len(c.server.Flags) > 0 {
		name += " " + strings.Join(c.server.Flags, " ")
	}
	return name
}
