// Package run carries out one run of a scenario: it makes the network, starts
// the supernodes and the clients, lets these download, and measures. What is
// run is package scenario's, how a client runs package client's.
package run

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/client"
	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/scenario"
	"github.com/supernode-ha/supernode/test/lab"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/pace"
	"github.com/supernode-ha/supernode/test/stage"
)

const (
	path        = "/file"
	lowestPort  = 15000 // of upload servers
	highestPort = 65000
	// atOnce is how many clients are prepared at the same time.
	atOnce = 2
)

// Config is what runs.
type Config struct {
	Scenario scenario.Scenario
	// Supernodes are the commands to measure, Etcd has the command of etcd.
	Supernodes, Etcd *cluster.Binaries
	// Flags are further arguments of the supernodes.
	Flags []string
	// Dfget is a real dfget; our own client runs when it is empty.
	Dfget string
	// LocalLimit bounds each download in bytes per second; 0 is no bound.
	LocalLimit int64
}

// run is what there is during a run.
type run struct {
	cfg     Config
	s       *stage.Stage
	plan    []scenario.Client
	hosts   []*lab.Host // of the clients
	layout  *cluster.Layout
	origin  *origin.Origin
	clients []client.Client
	dirs    []string
	samples *samples
}

// Run runs it on a stage, once. What cannot be measured fails the stage.
func Run(s *stage.Stage, cfg Config) Result {
	r := &run{cfg: cfg, s: s, plan: cfg.Scenario.Clients()}
	dir := r.build()
	r.serve()
	r.prepare(dir)
	r.samples = newSamples(s, r.layout)
	ctx, cancel := context.WithTimeoutCause(s.Context(), cfg.Scenario.Limit(), fmt.Errorf("the run takes longer than %s", cfg.Scenario.Limit().Round(time.Second)))
	defer cancel()
	began := time.Now()
	owner := make(chan error, 1)
	watching, stop := context.WithCancel(ctx)
	go func() { owner <- r.killOwner(watching) }()
	outcomes := r.download(ctx)
	stop()
	if err := <-owner; err != nil {
		s.Errorf("killing the owner: %v", err)
	}
	return r.conclude(began, outcomes)
}

// build makes the network and a place in memory for all that is written.
func (r *run) build() (dir string) {
	sc := r.cfg.Scenario
	hosts := lab.Hosts(r.s, sc.Supernodes+sc.Hosts)
	lab.Introduce(r.s, hosts)
	for _, h := range hosts[:sc.Supernodes] {
		h.Shape(r.s, sc.Server)
	}
	r.hosts = hosts[sc.Supernodes:]
	for i, h := range r.hosts {
		h.Shape(r.s, r.plan[i].Rate)
		if r.plan[i].Unreachable {
			h.Refuse(r.s, lowestPort, highestPort)
		}
	}
	const spare = 256 << 20
	dir = lab.Tmpfs(r.s, 2*sc.Size*int64(len(hosts)+1)+spare)
	r.supernodes(hosts[:sc.Supernodes], dir)
	return dir
}

// supernodes starts them.
func (r *run) supernodes(hosts []*lab.Host, dir string) {
	at, _ := cluster.AtHosts(hosts)
	var specs []cluster.Spec
	for i := range hosts {
		spec := at(i)
		spec.Home = r.mkdir(dir, "supernode", i)
		spec.More = append([]string{"--max-bandwidth", "0"}, r.cfg.Flags...)
		specs = append(specs, spec)
	}
	if len(specs) == 1 {
		r.layout = cluster.RunBundle(r.s, r.cfg.Supernodes, specs[0])
	} else {
		etcds := cluster.RunEtcds(r.s, r.cfg.Etcd, lab.HubIP)
		r.layout = cluster.RunBundles(r.s, r.cfg.Supernodes, etcds, specs)
		r.s.Cleanup(func() { etcds[0].Kill() })
	}
	r.s.Cleanup(func() {
		for _, n := range r.layout.Nodes {
			n.Allow("") // on links that are full not everything succeeds
			n.Kill()
		}
	})
}

func (r *run) mkdir(dir, what string, number int) string {
	made := filepath.Join(dir, fmt.Sprintf("%s-%d", what, number+1))
	if err := os.Mkdir(made, 0o755); err != nil { //nolint:gosec // a dfget's home has this mode
		r.s.Fatalf("making a home: %v", err)
	}
	return made
}

// serve starts the source, whose link is not bounded.
func (r *run) serve() {
	var err error
	if r.origin, err = origin.Start(origin.Config{Address: lab.HubIP + ":0"}); err != nil {
		r.s.Fatalf("starting the source: %v", err)
	}
	r.s.Cleanup(func() {
		if err := r.origin.Close(); err != nil {
			r.s.Errorf("ending the source: %v", err)
		}
	})
	r.origin.Put(path, origin.File{Size: r.cfg.Scenario.Size, Seed: r.cfg.Scenario.Seed, ETag: `"1"`})
}

// prepare starts everything of the clients that runs before the clock.
func (r *run) prepare(dir string) {
	var nodes []string
	for _, n := range r.layout.Nodes {
		nodes = append(nodes, n.REST)
	}
	for i, h := range r.hosts {
		cfg := client.Config{
			Inside: h.Inside(), IP: h.IP, Dir: r.mkdir(dir, "client", i), Nodes: nodes,
			URL: r.origin.URL(path), LocalLimit: r.cfg.LocalLimit,
		}
		var c client.Client = client.NewOwn(cfg)
		if r.cfg.Dfget != "" {
			c = client.NewDfget(cfg, r.cfg.Dfget)
		}
		r.clients, r.dirs = append(r.clients, c), append(r.dirs, cfg.Dir)
		r.s.Cleanup(c.Kill)
	}
	errs := make([]error, len(r.clients))
	var all sync.WaitGroup
	slots := make(chan struct{}, atOnce)
	for i, c := range r.clients {
		all.Go(func() {
			slots <- struct{}{}
			errs[i] = c.Prepare(r.s.Context())
			<-slots
		})
	}
	all.Wait()
	if i := slices.IndexFunc(errs, func(err error) bool { return err != nil }); i >= 0 {
		r.s.Fatalf("preparing client %d: %v", i+1, errs[i])
	}
}

// download lets every client download when its time has come, and kills those
// that are to crash.
func (r *run) download(ctx context.Context) []client.Outcome {
	outcomes := make([]client.Outcome, len(r.clients))
	var all sync.WaitGroup
	for i, c := range r.clients {
		all.Go(func() {
			if !pace.Pause(ctx, r.plan[i].Arrive) {
				outcomes[i].Err = context.Cause(ctx)
				return
			}
			var crash sync.WaitGroup
			over, cancel := context.WithCancel(ctx)
			if after := r.plan[i].Crash; after > 0 {
				crash.Go(func() {
					if pace.Pause(over, after) {
						c.Kill()
					}
				})
			}
			outcomes[i] = c.Download(ctx)
			cancel()
			crash.Wait()
		})
	}
	all.Wait()
	return outcomes
}
