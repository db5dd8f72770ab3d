package tasks_test

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/metrics"
	"github.com/supernode-ha/supernode/services/registry/internal/ownership"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
	"github.com/supernode-ha/supernode/services/registry/internal/tasks"
)

// op is a call under way. It stops before everything that it asks of the
// store, until the history lets it go on.
type op struct {
	resume chan struct{}
	paused chan bool // false: it ended
	loses  bool      // the answer of its next write gets lost

	scheduler, cdn string // who calls
	epoch          int64  // in which an owner writes
	resigns        string
	looked         record.Task // what it saw last
	young          bool        // how it saw the store last
	req            ownership.Resolve
}

type opKey struct{}

func (o *op) yield() {
	o.paused <- true
	<-o.resume
}

func (o *op) loseAnswer() bool {
	lost := o.loses
	o.loses = false
	return lost
}

// node is one registry, whose copy lags.
type simNode struct {
	handle *handle
	cache  *cache.Cache
	tasks  *tasks.Tasks
	seen   int    // events of the era that its copy has seen
	era    string // of its copy
}

func newSimNode(s *simStore, copies int) *simNode {
	c := cache.New()
	m, err := metrics.New(prometheus.NewRegistry(), c.Counts)
	if err != nil {
		panic(err)
	}
	h := &handle{simStore: s, cache: c}
	return &simNode{handle: h, cache: c, tasks: tasks.New(tasks.Deps{Store: h, Cache: c, Metrics: m, Log: zap.NewNop(), Copies: copies})}
}

// list is what a registry does first, and whenever it notices another era.
func (n *simNode) list() {
	s := n.handle.simStore
	s.beginEra()
	n.cache.Replace(s.snapshot())
	n.seen, n.era = len(s.events), s.era
}

// follow brings some of the events that the copy has not seen.
func (n *simNode) follow(most int) {
	s := n.handle.simStore
	if n.era != s.era || s.era == "" {
		n.list()
		return
	}
	end := min(n.seen+most, len(s.events))
	n.cache.Apply(s.events[n.seen:end])
	n.seen = end
}

// disk is what a CDN has of a task.
type disk struct {
	version string
	pieces  int
	epoch   int64 // the highest in which it knew the task
}

func (d disk) whole() bool { return d.pieces == wholeAt }

const wholeAt = 3

func (d disk) source() *record.Source { return &record.Source{Length: 9, ETag: d.version} }

func (d disk) copyOf(id string) record.Copy {
	return record.Copy{ID: id, URL: "http://127.0.0.1/", Source: d.source(), PieceSize: 4, Epoch: d.epoch, Whole: d.whole()}
}

type simCDN struct {
	record.Member
	alive bool
	disk  map[string]disk
}

type simScheduler struct {
	record.Member
	last map[string]record.Task
}

// history is one run of a cluster.
type history struct {
	*rand.Rand
	store      *simStore
	nodes      []*simNode
	cdns       []*simCDN
	schedulers []*simScheduler
	tasks      []string
	versions   map[string]int // of the sources
	running    []*op
	backup     *state
	copies     int
}

func newHistory(seed uint64, f flaw) *history {
	h := &history{
		Rand: rand.New(rand.NewPCG(seed, 7)), store: newSimStore(f), versions: make(map[string]int),
		tasks: []string{fmt.Sprintf("%064x", 1), fmt.Sprintf("%064x", 2)},
	}
	h.copies = 1 + h.IntN(3)
	for i := range 2 + h.IntN(4) {
		m := member(record.RoleCDN, fmt.Sprint("c", i))
		m.Zone = fmt.Sprint("z", h.IntN(2))
		h.cdns = append(h.cdns, &simCDN{Member: m, disk: make(map[string]disk)})
	}
	for i := range 2 {
		h.schedulers = append(h.schedulers, &simScheduler{Member: member(record.RoleScheduler, fmt.Sprint("s", i)), last: make(map[string]record.Task)})
	}
	for range 2 {
		h.nodes = append(h.nodes, newSimNode(h.store, h.copies))
	}
	h.store.beginEra()
	for _, c := range h.cdns {
		h.join(c)
	}
	for _, s := range h.schedulers {
		h.beat(s.Member)
	}
	for _, n := range h.nodes {
		n.list()
	}
	return h
}

func (h *history) beat(m record.Member) {
	if lease, ok := h.store.members[m.Key()]; !ok || lease.Member != m {
		h.store.put(cache.Change{Member: &cache.Lease{Member: m}})
	}
}

func (h *history) join(c *simCDN) {
	c.alive = true
	h.beat(c.Member)
}

func (h *history) expire(key record.MemberKey) {
	if h.store.isMember(key) {
		h.store.put(cache.Change{MemberGone: &key})
	}
}

func pick[T any](h *history, all []T) T { return all[h.IntN(len(all))] }

// start begins a call and stops it before it asks for anything.
func (h *history) start(o *op, call func(ctx context.Context, n *simNode)) {
	o.resume, o.paused = make(chan struct{}), make(chan bool)
	o.loses = h.IntN(40) == 0
	ctx := context.WithValue(context.Background(), opKey{}, o)
	n := pick(h, h.nodes)
	go func() {
		<-o.resume
		call(ctx, n)
		o.paused <- false
	}()
	h.running = append(h.running, o)
}

// advance lets one of the calls go on to its next question.
func (h *history) advance() {
	i := h.IntN(len(h.running))
	o := h.running[i]
	o.resume <- struct{}{}
	if more := <-o.paused; !more {
		h.running = append(h.running[:i], h.running[i+1:]...)
	}
}

func (h *history) finishAll() {
	for len(h.running) > 0 {
		h.advance()
	}
}
