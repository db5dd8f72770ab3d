package sim

import (
	"time"

	"github.com/bits-and-blooms/bitset"

	"github.com/supernode-ha/supernode/services/scheduler/sim/clock"
	"github.com/supernode-ha/supernode/services/scheduler/sim/network"
	"github.com/supernode-ha/supernode/services/scheduler/sim/policy"
)

// dfget's constants.
const (
	idlePoll     = 2 * time.Second // how long it waits for a piece to end before it pulls anyway
	firstSleep   = 50 * time.Millisecond
	lastSleep    = 800 * time.Millisecond
	mergeAbove   = 2 // pieces under way
	failurePause = 20 * time.Millisecond
	probeTimeout = 500 * time.Millisecond
	pieceReserve = 10 * time.Second
	pieceRate    = 64 << 10 // bytes a second
)

// host is a machine's link, and whether it can be reached.
type host struct {
	up, down    *network.Link
	unreachable bool
	life        life

	// Of a CDN instance: transfers to peers that have ended, and their bytes.
	ended int64
	sent  float64
}

// life says whether a host's client runs.
//
//	alive --its process is killed--> killed
//	alive --its host disappears----> vanished
type life int8

const (
	alive life = iota
	// Connections to a killed process are reset, and new ones are refused at once.
	killed
	// A host that vanished answers nothing: what it was sending hangs.
	vanished
)

// outcome is how a piece ended, as a pull reports it.
type outcome int8

const (
	none outcome = iota
	semiSuccess
	failure
)

// report is what a pull says.
type report struct {
	num     int32
	outcome outcome
	from    policy.Source
	started bool // it is the first pull
}

type state int8

// The states of a peer's pulling loop.
//
//	waiting --something to report--> pulling --offers--> waiting
//	                                  ^    |--602, nothing to report--> sleeping
//	                                  +-----------------------------------+
const (
	absent state = iota
	waiting
	pulling
	sleeping
	finished
)

// peer is a dfget.
type peer struct {
	world  *world
	task   *task
	number int
	host   *host
	limit  *network.Link // of the client for this download, nil without

	state   state
	arrives time.Duration
	ends    time.Duration // when it finished

	have     *bitset.BitSet
	running  []*fetch
	queue    []report
	held     report // to be merged with later ones, outcome none without
	last     report // what the running pull says
	timer    *clock.Timer
	minSleep time.Duration
	notices  int // pieces reported as written since it slept
	wrote    time.Duration

	flows     int           // transfers that bring bytes
	busy      time.Duration // how long there was at least one
	busySince time.Duration
}

// receiving adds to the transfers that bring bytes.
func (p *peer) receiving(change int) {
	now := p.world.clock.Now()
	if p.flows == 0 {
		p.busySince = now
	}
	if p.flows += change; p.flows == 0 {
		p.busy += now - p.busySince
	}
}

// start registers the peer.
func (p *peer) start() {
	p.timer = clock.New(p.expired)
	p.minSleep = firstSleep
	w := p.world
	w.calls++
	w.clock.After(w.toScheduler(p.host), func() {
		p.task.register(p)
		w.clock.After(w.half(p.host, w.schedulerHost()), func() {
			if p.host.life != alive {
				return
			}
			p.state = waiting
			p.pull(report{started: true})
		})
	})
}

func (p *peer) put(r report) {
	p.queue = append(p.queue, r)
	if p.state == waiting {
		p.next()
	}
}

// next takes reports from the queue until one has to be told.
func (p *peer) next() {
	for len(p.queue) > 0 {
		r := p.queue[0]
		p.queue = p.queue[1:]
		if len(p.queue) == 0 {
			p.queue = nil
		}
		p.held = r
		if r.outcome != semiSuccess || len(p.queue) == 0 && len(p.running) <= mergeAbove {
			p.tell()
			return
		}
	}
	if p.held.outcome != none {
		p.world.clock.Reset(p.timer, p.world.clock.Now()+idlePoll)
	}
}

func (p *peer) tell() {
	r := p.held
	p.held = report{}
	p.pull(r)
}

// expired is the end of a sleep, or of waiting for something to report.
func (p *peer) expired() {
	switch p.state {
	case sleeping:
		p.pull(p.last)
	case waiting:
		p.tell()
	}
}

func (p *peer) pull(r report) {
	w := p.world
	w.clock.Stop(p.timer)
	p.state, p.last = pulling, r
	w.calls++
	w.clock.After(w.toScheduler(p.host), func() { p.task.pull(p, r) })
}

// answered takes the answer to the running pull.
func (p *peer) answered(a answer) {
	if p.host.life != alive || p.state != pulling {
		return
	}
	switch {
	case a.finished:
		p.finish()
	case len(a.offers) > 0 || a.idle == policy.Nothing:
		p.state = waiting
		for _, o := range a.offers {
			p.offered(o)
		}
		p.resume()
	case len(p.queue) > 0:
		p.resume()
	default:
		p.rest()
	}
}

func (p *peer) resume() {
	p.state = waiting
	p.next()
}

// rest sleeps after a 602, longer each time. A piece that is reported as
// written ends it, also one that was while nothing slept.
func (p *peer) rest() {
	p.state = sleeping
	d := p.minSleep + time.Duration(p.world.random.Int64N(int64(p.minSleep)))
	if p.minSleep < lastSleep {
		p.minSleep *= 2
	}
	if p.notices > 0 {
		p.notices--
		d = 0
	}
	p.world.clock.Reset(p.timer, p.world.clock.Now()+d)
}

func (p *peer) noticed() {
	if p.state == sleeping {
		p.world.clock.Reset(p.timer, p.world.clock.Now())
		return
	}
	p.notices++
}

// offered begins a piece. One that is here is told again, one that is under way
// is ignored.
func (p *peer) offered(o policy.Offer) {
	if p.have.Test(uint(o.Num)) {
		p.queue = append(p.queue, report{num: o.Num, outcome: semiSuccess, from: o.From})
		return
	}
	for _, f := range p.running {
		if f.num == o.Num {
			p.world.result.Ignored++
			return
		}
	}
	p.fetch(o)
}

func (p *peer) finish() {
	w := p.world
	p.state = finished
	p.ends = max(w.clock.Now(), p.wrote)
	w.left--
}

// crash ends the client. The scheduler is not told of it.
func (p *peer) crash(how life) {
	w := p.world
	if p.state != finished {
		w.left--
		w.result.Crashed++
		p.state = absent
	}
	p.host.life = how
	w.clock.Stop(p.timer)
	for _, f := range p.running {
		w.clock.Stop(f.timer)
		f.stop()
	}
	p.running = nil
	if how == killed {
		p.task.reset(p.host)
		return
	}
	for _, flow := range p.host.up.Flows() {
		w.network.Cancel(flow) // the receiver waits until its time is over
	}
}
