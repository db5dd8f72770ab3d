package play

import (
	"context"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
	"github.com/supernode-ha/supernode/test/pace"
)

const (
	lookEvery = 100 * time.Millisecond
	lookLimit = time.Second
)

// strike kills one supernode after the other and starts each again, until the
// context ends. The cluster is promised to survive one at a time, so it is whole
// again before the next.
func (p *Play) strike(ctx context.Context, cast func() scene.Cast) {
	for {
		b := p.plan.next()
		if !p.awaitWhole(ctx, cast) || !pace.Pause(ctx, b.calm) {
			return
		}
		node := p.layout.Nodes[b.victim]
		at := time.Now()
		p.noteKill(b.victim, at, cast().Parts(node.ID))
		node.Kill()
		if !pace.Pause(ctx, b.down) {
			return
		}
		node.Launch(p.scope)
		p.noteLaunch(b.victim, time.Since(at))
	}
}

// awaitWhole waits until all supernodes can serve and every part of the task is
// somebody's. It is false when the context ended before.
func (p *Play) awaitWhole(ctx context.Context, cast func() scene.Cast) bool {
	for !p.allUp(ctx) || !cast().Whole() {
		if !pace.Pause(ctx, lookEvery) {
			return false
		}
	}
	return true
}

func (p *Play) allUp(ctx context.Context) bool {
	all := true
	for i, n := range p.layout.Nodes {
		if !n.Running() {
			p.scope.Fatalf("%s ended, and nobody has killed it", n.ID)
		}
		if isUp(ctx, n) {
			p.setStatus(i, scene.Up)
		} else {
			all = false
		}
	}
	return all
}

func isUp(ctx context.Context, n *cluster.Node) bool {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	return n.Ready(ctx)
}

func (p *Play) setStatus(i int, s scene.Status) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes[i].Status = s
}

func (p *Play) noteKill(i int, at time.Time, parts []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes[i].Status = scene.Killed
	p.kills = append(p.kills, scene.Kill{At: at.Sub(p.began), Supernode: p.nodes[i].Name, Parts: parts})
}

func (p *Play) noteLaunch(i int, down time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.nodes[i].Status = scene.Starting
	p.kills[len(p.kills)-1].Down = down
}
