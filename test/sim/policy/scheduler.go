package policy

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/pkg/window"
	"github.com/supernode-ha/supernode/services/scheduler/internal/capacity"
	"github.com/supernode-ha/supernode/services/scheduler/internal/swarm"
)

// The scheduler's own defaults.
const (
	uploads     = 4
	downloads   = 4
	maxHold     = 3 * time.Second
	rateSamples = 10 // of 100 ms, in the rate that an instance reports
)

// scheduler is the policy of the scheduler's own code, with the capacity that
// CDN instances grant it: it is the only one that uses them.
type scheduler struct {
	options Options
	shares  *capacity.Shares
	cdns    map[int]*instance
}

// instance is a CDN instance's part of dividing its capacity.
type instance struct {
	control *window.Controller
	sent    []int64 // of late
}

func newScheduler(o Options) *scheduler {
	if o.Up == 0 {
		o.Up = uploads
	}
	if o.Down == 0 {
		o.Down = downloads
	}
	return &scheduler{options: o, shares: capacity.NewShares(), cdns: make(map[int]*instance)}
}

func (s *scheduler) Name() string        { return "swarm" }
func (s *scheduler) Hold() time.Duration { return maxHold }

func (s *scheduler) PieceSize(length int64) int32 {
	if s.options.PieceSize > 0 {
		return s.options.PieceSize
	}
	return piece.SizeFor(length)
}

// Measure does what a CDN instance and the scheduler's stream to it do.
func (s *scheduler) Measure(number int, sent, ended int64, now time.Duration) {
	in := s.cdns[number]
	if in == nil {
		in = &instance{control: window.New()}
		s.cdns[number] = in
	}
	name := instanceName(number)
	inFlight, limited := s.shares.Demand(name)
	in.control.Observe(wall(now), window.Sample{InFlight: inFlight, Limited: limited, Sent: sent, Ended: ended})
	in.sent = append(in.sent, sent)
	if len(in.sent) > rateSamples+1 {
		in.sent = in.sent[1:]
	}
	s.shares.Grant(name, in.control.Window())
	if n := len(in.sent) - 1; n > 0 {
		s.shares.Deliver(name, (in.sent[n]-in.sent[0])*10/int64(n))
	}
}

func (s *scheduler) NewTask(info Info, random *rand.Rand) Task {
	share := s.shares.NewTask()
	return &swarmTask{
		info: info, wake: share.Wake(),
		swarm: swarm.New(swarm.Limits{Up: s.options.Up, Down: s.options.Down}, share, random),
		ids:   make([]string, info.Peers), numbers: make(map[string]int, info.Peers),
	}
}

// swarmTask is a task of the scheduler.
type swarmTask struct {
	info    Info
	swarm   *swarm.Swarm
	wake    <-chan struct{}
	ids     []string
	numbers map[string]int
	err     error
}

// Woken tells whether an instance may have room again.
func (t *swarmTask) Woken() bool {
	select {
	case <-t.wake:
		t.swarm.CapacityFreed()
		return true
	default:
		return false
	}
}

// Looked returns what the choices looked at.
func (t *swarmTask) Looked() Looked {
	w := t.swarm.Work()
	return Looked{Choices: int64(w.Choices), Pieces: int64(w.Pieces), Holders: int64(w.Holders)}
}

// wall is the time that the swarm is told.
func wall(now time.Duration) time.Time { return time.Unix(1_000_000_000, 0).Add(now) }

func (t *swarmTask) note(err error) {
	if err != nil && t.err == nil {
		t.err = fmt.Errorf("task %d: %w", t.info.Number, err)
	}
}

func (t *swarmTask) Err() error { return t.err }

func (t *swarmTask) AddPeer(peer int, now time.Duration) {
	id := "peer-" + strconv.Itoa(peer)
	t.ids[peer], t.numbers[id] = id, peer
	ip := fmt.Sprintf("10.%d.%d.%d", peer>>16, peer>>8&255, peer&255)
	t.swarm.AddPeer(swarm.PeerInfo{ID: id, IP: ip, Port: 15000, Path: "/peer/file/f", HostName: id}, wall(now))
}

func (t *swarmTask) Started(peer int, now time.Duration) {
	t.note(t.swarm.Seen(t.ids[peer], wall(now)))
	t.note(t.swarm.Restarted(t.ids[peer]))
}

func (t *swarmTask) Seen(peer int, now time.Duration) {
	t.note(t.swarm.Seen(t.ids[peer], wall(now)))
}

func (t *swarmTask) Got(peer int, num int32, now time.Duration) {
	t.note(t.swarm.Written(t.ids[peer], num, t.info.PieceSize, wall(now)))
}

func (t *swarmTask) SemiSuccess(peer int, num int32, now time.Duration) {
	t.note(t.swarm.SemiSuccess(t.ids[peer], num, t.info.PieceSize, wall(now)))
}

func (t *swarmTask) Failed(peer int, num int32, from Source, now time.Duration) {
	id := ""
	if from.IsCDN() {
		id = cdnID(from.Instance(), t.info.Number)
	} else {
		id = t.ids[from]
	}
	_, err := t.swarm.Failed(t.ids[peer], num, t.info.PieceSize, id, wall(now))
	t.note(err)
}

func (t *swarmTask) Offer(peer int, now time.Duration) ([]Offer, Idle) {
	offers := t.swarm.Offer(t.ids[peer], wall(now))
	if len(offers) == 0 {
		offers = t.swarm.Reoffer(t.ids[peer])
		// They come in the order of a map, and a run has to be repeatable.
		slices.SortFunc(offers, func(a, b swarm.Offer) int { return cmp.Compare(a.Num, b.Num) })
	}
	return t.convert(offers), Wait
}

func (t *swarmTask) Again(int, time.Duration) []Offer { return nil }

func (t *swarmTask) convert(list []swarm.Offer) []Offer {
	offers := make([]Offer, len(list))
	for i, o := range list {
		offers[i] = Offer{Num: o.Num, Length: o.Length, handle: o}
		if o.FromCDN {
			offers[i].From = t.instance(o.SourceID)
		} else {
			offers[i].From = Source(t.numbers[o.SourceID])
		}
	}
	return offers
}

func (t *swarmTask) instance(id string) Source {
	for i, c := range t.swarm.Copies() {
		if c.ID == id {
			return CDN(i)
		}
	}
	t.note(errors.New("an offer from an unknown CDN copy"))
	return CDN(0)
}

func (t *swarmTask) Undelivered(peer int, offers []Offer) {
	list := make([]swarm.Offer, len(offers))
	for i, o := range offers {
		list[i], _ = o.handle.(swarm.Offer)
	}
	t.swarm.Undelivered(t.ids[peer], list)
}

func (t *swarmTask) HoldPull(peer int, until time.Duration) {
	t.swarm.Hold(t.ids[peer], wall(until))
}

func (t *swarmTask) Next(now time.Duration) (peer int, ok bool) {
	id := ""
	for id == "" { // it has looked for long, and may have more
		if id, ok = t.swarm.Next(wall(now)); !ok {
			return 0, false
		}
	}
	return t.numbers[id], true
}

func (t *swarmTask) Denied(peer int, now time.Duration) { t.swarm.Denied(t.ids[peer], wall(now)) }
func (t *swarmTask) Release(peer int)                   { t.swarm.Release(t.ids[peer]) }

func (t *swarmTask) Finished(peer int) bool { return t.swarm.Finished(t.ids[peer]) }

func cdnID(instance, task int) string {
	return fmt.Sprintf("cdnnode:10.255.0.%d~task-%022d", instance, task)
}

func instanceName(instance int) string { return "cdn-" + strconv.Itoa(instance) }

func (t *swarmTask) Attach(instance int) {
	t.swarm.SetCopy(swarm.Copy{
		Instance: instanceName(instance), ID: cdnID(instance, t.info.Number), IP: "10.255.0." + strconv.Itoa(instance),
		Port: 8001, Path: "/download/t", Owner: instance == 0,
	})
	t.note(t.swarm.SetFacts(instanceName(instance), swarm.Facts{Length: t.info.Length, PieceSize: t.info.PieceSize}))
}

func (t *swarmTask) Landed(instance int, num, length int32, _ time.Duration) {
	t.note(t.swarm.Landed(instanceName(instance), num, fmt.Sprintf("%032x", num), length))
}

func (t *swarmTask) Whole(instance int) {
	t.note(t.swarm.SetResult(instanceName(instance), swarm.Result{Length: t.info.Length, PieceCount: t.info.Pieces}))
}

func (t *swarmTask) Tick(now time.Duration) { t.swarm.Tick(wall(now)) }
