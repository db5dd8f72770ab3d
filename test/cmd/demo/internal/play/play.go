// Package play is what happens in the demonstration: a cluster of supernodes,
// peers that all download one file through it, and a supernode that is killed
// every few seconds. How it looks is drawn elsewhere, and who is what to the
// task is watched elsewhere.
package play

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/supernode-ha/supernode/pkg/taskid"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/peer"
	"github.com/supernode-ha/supernode/test/swarm"
)

const (
	path = "/file"

	// dfget walks its list of supernodes once and has nowhere to go behind the
	// last. Here more of them die than it has names, so it has each that often.
	// It may: dfget does not look for doubles.
	rounds = 12
)

// Config is what is played.
type Config struct {
	// Seed names who is killed and when, and what the file has in it.
	Seed uint64
	// Size is that of the file, and Rate what the source sends of it, in bytes a
	// second: together they say how long it takes at least.
	Size, Rate int64
}

// Play is one demonstration.
type Play struct {
	cfg    Config
	scope  cluster.Scope
	plan   *plan
	layout *cluster.Layout
	source *origin.Origin
	sum    string
	swarm  *swarm.Swarm
	crowd  *crowd

	mu    sync.Mutex // guards what follows
	began time.Time
	nodes []scene.Supernode
	kills []scene.Kill
}

// New starts a cluster and a source, and has the peers ready. Close must follow.
func New(scope cluster.Scope, b *cluster.Binaries, cfg Config) (*Play, error) {
	p := &Play{cfg: cfg, scope: scope, plan: newPlan(cfg.Seed), sum: origin.MD5(cfg.Size, cfg.Seed)}
	address := cluster.Net(scope)
	var specs []cluster.Spec
	for i := range supernodes {
		// Names that are always the same make the task lie where it lay.
		name := fmt.Sprintf("supernode-%d", i+1)
		specs = append(specs, cluster.Spec{ID: name, IP: address(1 + i)})
		p.nodes = append(p.nodes, scene.Supernode{Name: name, Status: scene.Up})
	}
	// It waits until all of them are.
	p.layout = cluster.RunBundles(scope, b, cluster.RunEtcds(scope, b, address(200), address(201), address(202)), specs)
	var err error
	if p.source, err = origin.Start(origin.Config{}); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.source.Put(path, origin.File{Size: cfg.Size, Seed: cfg.Seed, ETag: fmt.Sprintf(`"%d"`, cfg.Seed), Rate: cfg.Rate})
	if err := p.gather(address); err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// gather makes the peers. Each knows all gateways, another one first.
func (p *Play) gather(address func(int) string) error {
	names, gateways := make(map[string]string), p.layout.All(cluster.Gateway)
	for _, g := range gateways {
		names[g.REST] = g.ID
	}
	p.crowd = newCrowd(p.cfg.Size, names)
	buffers := &peer.Buffers{}
	var configs []peer.Config
	for i := range peers {
		var nodes []string
		for k := range rounds * len(gateways) {
			nodes = append(nodes, gateways[(i+k)%len(gateways)].REST)
		}
		configs = append(configs, peer.Config{
			Nodes: nodes, KeepOrder: true, IP: address(20 + i), Dir: p.scope.TempDir(), Buffers: buffers,
			URL: p.source.URL(path), TaskURL: p.plan.task, NoBackSource: true, Observe: p.crowd.observe(i),
		})
	}
	var err error
	if p.swarm, err = swarm.New(configs); err != nil {
		return fmt.Errorf("making the peers: %w", err)
	}
	return nil
}

// Task is the id of the one that everybody downloads.
func (p *Play) Task() string { return taskid.Compute(p.plan.task, "", "", nil) }

// Registries are those that can be asked, the dead ones too.
func (p *Play) Registries() []*cluster.Node { return p.layout.All(cluster.Registry) }

// Run lets the peers download and the supernodes die until all peers have ended,
// and gives what that came to. cast tells who is what to the task.
func (p *Play) Run(ctx context.Context, cast func() scene.Cast) (scene.Tally, error) {
	p.mu.Lock()
	p.began = time.Now()
	p.mu.Unlock()
	striking, calm := context.WithCancel(ctx)
	var strikes sync.WaitGroup
	strikes.Go(func() { p.strike(striking, cast) })
	downloads := p.swarm.DownloadAfter(ctx, p.plan.comes)
	calm()
	strikes.Wait()
	return p.conclude(downloads)
}

// conclude adds up. The error is what is wrong with it.
func (p *Play) conclude(downloads swarm.Tally) (scene.Tally, error) {
	t := scene.Tally{
		Seed: p.cfg.Seed, Peers: len(downloads.Outcomes), Size: p.cfg.Size, Sent: p.source.Total().BytesSent,
		Migrations: downloads.Migrations, Kills: len(p.kills), Stall: p.crowd.stall(time.Now()), Took: downloads.Took, BackToSource: downloads.BackToSource,
	}
	var errs []error
	for i, o := range downloads.Outcomes {
		switch {
		case errors.Is(o.Err, peer.ErrNoBackSource):
			t.BackToSource++
		case errors.Is(o.Err, peer.ErrWrongMD5), o.Err == nil && o.MD5 != p.sum:
			t.Wrong++
			errs = append(errs, fmt.Errorf("peer %d has MD5 %s and not %s", i+1, o.MD5, p.sum))
		case o.Err == nil:
			t.Right++
		}
	}
	return t, errors.Join(append(errs, downloads.Err())...)
}

// Scene is how it is now, but for who is what to the task.
func (p *Play) Scene(cast scene.Cast) scene.Scene {
	s := scene.Scene{Seed: p.cfg.Seed, Size: p.cfg.Size, Sent: p.source.Total().BytesSent, Peers: p.crowd.peers()}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.began.IsZero() {
		s.Elapsed = time.Since(p.began)
	}
	s.Kills = append(s.Kills, p.kills...)
	for _, n := range p.nodes {
		n.Parts = cast.Parts(n.Name)
		s.Supernodes = append(s.Supernodes, n)
	}
	return s
}

// Close ends everybody at once: there is nothing left to hand over.
func (p *Play) Close() error {
	if p.swarm != nil {
		p.swarm.Close()
	}
	for _, n := range p.layout.Nodes {
		n.Kill()
	}
	for _, e := range p.layout.Etcds {
		e.Kill()
	}
	if p.source == nil {
		return nil
	}
	return p.source.Close()
}
