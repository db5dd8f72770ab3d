package sim

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"time"

	"github.com/bits-and-blooms/bitset"

	"github.com/supernode-ha/supernode/services/scheduler/sim/clock"
	"github.com/supernode-ha/supernode/services/scheduler/sim/network"
	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
	"github.com/supernode-ha/supernode/services/scheduler/sim/scenario"
)

// unlimited is a rate that binds nothing, in bytes a second.
const unlimited = 1e12

// world is one run.
type world struct {
	config   Config
	scenario scenario.Scenario
	clock    *clock.Clock
	network  *network.Network
	random   *rand.Rand

	source *host
	cdns   []*host
	tasks  []*task
	left   int // peers that have not finished

	calls   int64
	fromCDN float64
	result  Result
}

// Run simulates a scenario until all peers have finished, or the time is over.
func Run(ctx context.Context, s scenario.Scenario, p policy.Policy, cfg Config) (*Result, error) {
	w := newWorld(s, p, cfg)
	until := max(cfg.Until, cfg.Bounds*s.Bound())
	for i := 0; w.left > 0 && w.clock.Step(until); i++ {
		if i%1024 == 0 && ctx.Err() != nil {
			return nil, fmt.Errorf("simulating %s: %w", s.Name, context.Cause(ctx))
		}
	}
	for _, t := range w.tasks {
		if err := t.policy.Err(); err != nil {
			return nil, fmt.Errorf("simulating %s: %w", s.Name, err)
		}
	}
	return w.sum(p), nil
}

func newWorld(s scenario.Scenario, p policy.Policy, cfg Config) *world {
	w := &world{config: cfg, scenario: s, clock: &clock.Clock{}, random: rand.New(rand.NewPCG(cfg.Seed, 7))}
	w.network = network.New(w.clock, w.step(p))
	if cfg.Unfair > 0 {
		w.network.Weigh(func() float64 { return math.Exp(w.random.NormFloat64() * cfg.Unfair) })
	}
	w.source = newHost(s.Source, unlimited)
	for range s.Instances {
		w.cdns = append(w.cdns, newHost(s.CDN, s.CDN))
	}
	for number := range s.Tasks {
		t := newTask(w, p, number)
		w.tasks = append(w.tasks, t)
		w.addPeers(t)
	}
	if m, ok := p.(policy.Measurer); ok {
		w.measure(m)
	}
	return w
}

// measureEvery is how often a CDN instance measures what it sends.
const measureEvery = 100 * time.Millisecond

// measure tells the policy what each CDN instance has sent, again and again.
func (w *world) measure(m policy.Measurer) {
	now := w.clock.Now()
	for i, cdn := range w.cdns {
		sent := cdn.sent
		for _, flow := range cdn.up.Flows() {
			sent += flow.Moved(now)
		}
		m.Measure(i, int64(sent), cdn.ended, now)
	}
	w.wakeTasks()
	w.clock.After(measureEvery, func() { w.measure(m) })
}

// wakeTasks has the tasks look at their held pulls that were woken by others.
func (w *world) wakeTasks() {
	for _, t := range w.tasks {
		if woken, ok := t.policy.(policy.Waker); ok && woken.Woken() {
			t.wake(0)
		}
	}
}

func newHost(up, down float64) *host {
	return &host{up: network.NewLink(up), down: network.NewLink(down)}
}

const (
	exactBelow = 50 // peers, whose rates are always exact
	manyPeers  = 20_000
	fineSteps  = 100 // in the time of a piece
	roughSteps = 30
	leastStep  = time.Millisecond / 2
)

// step is the network's: none for few peers, else a hundredth of the time that
// one of three pieces at the same time takes the fastest peer, for very many peers
// a thirtieth.
func (w *world) step(p policy.Policy) time.Duration {
	s := &w.scenario
	if w.config.Step > 0 {
		return w.config.Step
	}
	if s.Count()*s.Tasks <= exactBelow {
		return 0
	}
	rate := 0.0
	for _, h := range s.Hosts {
		rate = max(rate, h.Down)
	}
	length := min(float64(p.PieceSize(s.Length)), float64(s.Length))
	steps := time.Duration(fineSteps)
	if s.Count()*s.Tasks > manyPeers {
		steps = roughSteps
	}
	return max(time.Duration(3*length/rate*float64(time.Second))/steps, leastStep)
}

// addPeers makes the peers of a task and lets them start. Faults are spread over
// all kinds of hosts.
func (w *world) addPeers(t *task) {
	s := &w.scenario
	for _, hosts := range s.Hosts {
		for range hosts.Count {
			p := &peer{world: w, task: t, number: len(t.peers), host: newHost(hosts.Up, hosts.Down), have: &bitset.BitSet{}}
			if s.LocalLimit > 0 {
				p.limit = network.NewLink(s.LocalLimit)
			}
			t.peers = append(t.peers, p)
		}
	}
	w.left += len(t.peers)
	for _, i := range w.some(len(t.peers), s.Unreachable) {
		t.peers[i].host.unreachable = true
	}
	for i, p := range t.peers {
		delay := time.Duration(0)
		if s.Trickle > 0 {
			p.arrives = s.Trickle * time.Duration(i) / time.Duration(len(t.peers))
		}
		if s.Spread > 0 {
			delay = time.Duration(w.random.Int64N(int64(s.Spread)))
		}
		w.clock.After(p.arrives+delay, p.start)
	}
	w.crash(t, s.Crash, killed)
	w.crash(t, s.Vanish, vanished)
}

// Peers crash between these parts of the bound, as in the benchmark on real links.
const crashFrom, crashTo = 0.2, 0.8

// crash lets a share of a task's peers end at random times.
func (w *world) crash(t *task, share float64, how life) {
	s := &w.scenario
	for _, i := range w.some(len(t.peers), share) {
		p := t.peers[i]
		after := crashFrom + (crashTo-crashFrom)*w.random.Float64()
		w.clock.After(p.arrives+time.Duration(after*float64(s.Bound())), func() { p.crash(how) })
	}
}

// some draws a share of n numbers.
func (w *world) some(n int, share float64) []int {
	return w.random.Perm(n)[:int(float64(n)*share+0.5)]
}

func (w *world) schedulerHost() *host { return w.cdns[0] }

// roundTrip draws the time of one between two hosts.
func (w *world) roundTrip(a, b *host) time.Duration {
	d := w.config.RoundTrip
	if a.up.Full() || a.down.Full() || b.up.Full() || b.down.Full() {
		d += min(exponential(w.random, w.config.Queue/2)+exponential(w.random, w.config.Queue/2), w.config.MaxQueue)
	}
	return d
}

func (w *world) half(a, b *host) time.Duration { return w.roundTrip(a, b) / 2 }

// toScheduler draws the time that a call needs to be in the task.
func (w *world) toScheduler(h *host) time.Duration {
	return w.half(h, w.schedulerHost()) + w.config.Serve
}
