package sim

import (
	"time"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/services/scheduler/sim/clock"
	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
)

// The scheduler's task package's.
const (
	pace     = 200 * time.Millisecond // how often time is looked at while pulls are held
	idlePace = 2 * time.Second
)

// answer is what a pull gets.
type answer struct {
	offers   []policy.Offer
	idle     policy.Idle
	finished bool
}

// task is the scheduler's part of a task, and what the CDN has of it.
type task struct {
	world  *world
	info   policy.Info
	policy policy.Task
	hold   time.Duration
	peers  []*peer

	until  map[int]time.Duration // of the held pulls, by peer
	look   *clock.Timer
	ticked time.Duration
	landed []int32 // pieces at each CDN instance
	begun  bool
}

func newTask(w *world, p policy.Policy, number int) *task {
	size := p.PieceSize(w.scenario.Length)
	info := policy.Info{
		Number: number, Length: w.scenario.Length, PieceSize: size, Pieces: piece.Count(w.scenario.Length, size),
		Peers: w.scenario.Count(),
	}
	t := &task{
		world: w, info: info, policy: p.NewTask(info, w.random), hold: p.Hold(),
		landed: make([]int32, w.scenario.Instances), until: make(map[int]time.Duration),
	}
	t.look = clock.New(t.run)
	return t
}

func (t *task) hostOf(s policy.Source) *host {
	if s.IsCDN() {
		return t.world.cdns[s.Instance()]
	}
	return t.peers[s].host
}

// register takes a peer in; the first one has the CDN fetch the file.
func (t *task) register(p *peer) {
	t.policy.AddPeer(p.number, t.world.clock.Now())
	if t.begun {
		return
	}
	t.begun = true
	for i := range t.world.cdns {
		t.policy.Attach(i)
	}
	t.land(0, t.world.source)
	t.wake(idlePace)
}

// land has the next piece come to an instance, from the source or from the first.
func (t *task) land(instance int, from *host) {
	num := t.landed[instance]
	if num == t.info.Pieces {
		t.policy.Whole(instance)
		t.wake(0)
		return
	}
	length := t.length(num)
	w := t.world
	w.network.Start(float64(length)*(1+w.config.Overhead), func() {
		t.landed[instance]++
		t.policy.Landed(instance, num, length, w.clock.Now())
		w.landed()
		if instance == 0 {
			for other := 1; other < len(t.landed); other++ {
				if t.landed[other] == num { // it has all that the first had, and waits
					t.land(other, w.cdns[0])
				}
			}
			t.land(0, w.source)
		} else if t.landed[instance] < t.landed[0] || t.landed[0] == t.info.Pieces {
			t.land(instance, w.cdns[0])
		}
		t.wake(0)
	}, from.up, w.cdns[instance].down)
}

// length is the wrapped length of a piece.
func (t *task) length(num int32) int32 {
	content := int64(t.info.PieceSize) - piece.WrapLength
	return int32(min(t.info.Length-int64(num)*content, content)) + piece.WrapLength
}

// pull takes a peer's report, and its wish for more.
func (t *task) pull(p *peer, r report) {
	now := t.world.clock.Now()
	if r.started {
		t.policy.Started(p.number, now)
	} else {
		t.policy.Seen(p.number, now)
	}
	switch r.outcome {
	case semiSuccess:
		t.policy.SemiSuccess(p.number, r.num, now)
	case failure:
		t.policy.Failed(p.number, r.num, r.from, now)
	}
	t.until[p.number] = now + t.hold
	t.policy.HoldPull(p.number, now+t.hold)
	t.wake(0)
	t.world.wakeTasks()
}

func (t *task) written(p *peer, num int32) {
	t.policy.Got(p.number, num, t.world.clock.Now())
	t.wake(0)
	t.world.wakeTasks()
}

// wake has the held pulls looked at in d.
func (t *task) wake(d time.Duration) {
	at := t.world.clock.Now() + d
	if !t.look.Set() || t.look.At() > at {
		t.world.clock.Reset(t.look, at)
	}
}

// run lets time pass and answers what can be answered.
func (t *task) run() {
	w := t.world
	now := w.clock.Now()
	if now-t.ticked >= pace {
		t.policy.Tick(now)
		t.ticked = now
	}
	for number, ok := t.policy.Next(now); ok; number, ok = t.policy.Next(now) {
		a, ready := t.answer(number, now)
		if !ready {
			t.policy.Denied(number, now)
			continue
		}
		t.policy.Release(number)
		delete(t.until, number)
		p := t.peers[number]
		w.clock.After(w.half(p.host, w.schedulerHost()), func() { p.answered(a) })
	}
	if w.left > 0 {
		if len(t.until) > 0 {
			t.wake(pace)
		} else {
			t.wake(idlePace)
		}
	}
}

func (t *task) answer(peer int, now time.Duration) (answer, bool) {
	if t.policy.Finished(peer) {
		return answer{finished: true}, true
	}
	offers, idle := t.policy.Offer(peer, now)
	if len(offers) > 0 {
		return answer{offers: offers}, true
	}
	if now < t.until[peer] {
		return answer{}, false
	}
	return answer{offers: t.policy.Again(peer, now), idle: idle}, true
}
