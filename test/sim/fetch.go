package sim

import (
	"slices"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/sim/clock"
	"github.com/supernode-ha/supernode/services/scheduler/sim/network"
	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
)

// fetch is a piece on its way to a peer.
type fetch struct {
	peer   *peer
	num    int32
	length int32
	from   policy.Source
	sender *host
	flow   *network.Flow
	timer  *clock.Timer
	phase  phase
}

type phase int8

// The phases of a fetch; the timer ends the first two.
const (
	setUp phase = iota
	transfer
	refused // or failed already
)

// fetch begins one: a probe, a connection, a request.
func (p *peer) fetch(o policy.Offer) {
	w := p.world
	f := &fetch{peer: p, num: o.Num, length: o.Length, from: o.From, sender: p.task.hostOf(o.From)}
	p.running = append(p.running, f)
	f.timer = clock.New(f.expired)
	now := w.clock.Now()
	switch {
	case f.sender.unreachable || f.sender.life == vanished:
		f.phase = refused
		w.clock.Reset(f.timer, now+probeTimeout)
		return
	case f.sender.life == killed:
		f.phase = refused
		w.clock.Reset(f.timer, now+w.roundTrip(p.host, f.sender))
		return
	}
	delay := w.config.Penalty
	for range w.config.SetUp {
		delay += w.roundTrip(p.host, f.sender)
	}
	w.clock.Reset(f.timer, now+delay)
}

func (f *fetch) expired() {
	w := f.peer.world
	switch f.phase {
	case setUp:
		f.phase = transfer
		limit := pieceReserve + time.Duration(f.peer.task.info.PieceSize/pieceRate)*time.Second
		w.clock.Reset(f.timer, w.clock.Now()+limit)
		if f.sender.life == vanished || !f.from.IsCDN() && w.random.Float64() < w.scenario.Hang {
			return // it hangs
		}
		links := []*network.Link{f.sender.up, f.peer.host.down}
		if f.peer.limit != nil {
			links = append(links, f.peer.limit)
		}
		f.peer.receiving(1)
		f.flow = w.network.Start(float64(f.length)*(1+w.config.Overhead), f.arrived, links...)
	case transfer:
		f.stop()
		f.failed()
	case refused:
		f.failed()
	}
}

// reset ends the connections of all peers to a host whose client was killed.
func (t *task) reset(h *host) {
	w := t.world
	for _, p := range t.peers {
		for _, f := range p.running {
			if f.sender != h || f.phase == refused {
				continue
			}
			f.stop()
			f.phase = refused
			w.clock.Reset(f.timer, w.clock.Now()+w.half(p.host, h))
		}
	}
}

// stop ends the transfer and counts what had come.
func (f *fetch) stop() {
	if f.flow == nil {
		return
	}
	bytes := float64(f.length) * (1 + f.peer.world.config.Overhead)
	f.count(bytes - f.peer.world.network.Cancel(f.flow))
	f.flow = nil
	f.peer.receiving(-1)
}

func (f *fetch) count(bytes float64) {
	if f.from.IsCDN() {
		f.peer.world.fromCDN += bytes / (1 + f.peer.world.config.Overhead)
		f.sender.sent += bytes
		f.sender.ended++
	}
}

func (f *fetch) remove() {
	running := f.peer.running
	i := slices.Index(running, f)
	running[i] = running[len(running)-1]
	running[len(running)-1] = nil
	f.peer.running = running[:len(running)-1]
}

// failed reports the failure after a pause.
func (f *fetch) failed() {
	p := f.peer
	f.phase = refused
	p.world.result.Failures++
	p.world.clock.After(failurePause, func() {
		if p.host.life != alive {
			return
		}
		f.remove()
		p.put(report{num: f.num, outcome: failure, from: f.from})
	})
}

// arrived writes the piece and reports it, in the order in which the two end.
func (f *fetch) arrived() {
	p, w := f.peer, f.peer.world
	now := w.clock.Now()
	w.clock.Stop(f.timer)
	f.flow = nil
	p.receiving(-1)
	f.count(float64(f.length) * (1 + w.config.Overhead))
	w.arrived(now)
	f.remove()
	p.have.Set(uint(f.num))
	p.wrote = max(now, p.wrote) + exponential(w.random, w.config.Write)
	num := f.num
	w.clock.After(p.wrote-now, func() { p.written(num) })
	p.put(report{num: f.num, outcome: semiSuccess, from: f.from})
}

// written reports that a piece is in the file.
func (p *peer) written(num int32) {
	if p.host.life != alive {
		return
	}
	w := p.world
	w.calls++
	w.clock.After(w.toScheduler(p.host), func() {
		p.task.written(p, num)
		w.clock.After(w.half(p.host, w.schedulerHost()), p.noticed)
	})
}
