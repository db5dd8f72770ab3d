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

// op is a call. It pauses before every access to the store until the history resumes it.
type op struct {
	resume      chan struct{}
	paused      chan bool // false if the call has ended
	losesAnswer bool      // the answer of its next write is lost

	scheduler, cdn string // the caller
	epoch          int64  // in which an owner writes
	resigns        string
	read           record.Task // that the call has read last
	young          bool        // whether the store was young then
	req            ownership.Resolve
}

type opKey struct{}

func (o *op) yield() {
	o.paused <- true
	<-o.resume
}

func (o *op) takeAnswerLoss() bool {
	lost := o.losesAnswer
	o.losesAnswer = false
	return lost
}

// simNode is one registry, whose cache lags.
type simNode struct {
	handle  *handle
	cache   *cache.Cache
	tasks   *tasks.Tasks
	applied int    // number of events of the era that the cache has received
	era     string // of the cache
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

// list replaces the content of the cache by that of the store.
func (n *simNode) list() {
	s := n.handle.simStore
	s.beginEra()
	n.cache.Replace(s.snapshot())
	n.applied, n.era = len(s.events), s.era
}

// follow applies at most the given number of events that the cache lacks.
func (n *simNode) follow(most int) {
	s := n.handle.simStore
	if n.era != s.era || s.era == "" {
		n.list()
		return
	}
	end := min(n.applied+most, len(s.events))
	n.cache.Apply(s.events[n.applied:end])
	n.applied = end
}

// disk is the copy that a CDN has of a task.
type disk struct {
	version string
	pieces  int
	epoch   int64 // the highest epoch of the task that the CDN has received
}

func (d disk) whole() bool { return d.pieces == totalPieces }

const totalPieces = 3

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

// history is one random sequence of events in a cluster.
type history struct {
	*rand.Rand
	store      *simStore
	nodes      []*simNode
	cdns       []*simCDN
	schedulers []*simScheduler
	tasks      []string
	versions   map[string]int // by task, of the source
	running    []*op
	backup     *simState
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
		h.sendHeartbeat(s.Member)
	}
	for _, n := range h.nodes {
		n.list()
	}
	return h
}

func (h *history) sendHeartbeat(m record.Member) {
	if lease, ok := h.store.members[m.Key()]; !ok || lease.Member != m {
		h.store.put(cache.Change{Member: &cache.Lease{Member: m}})
	}
}

func (h *history) join(c *simCDN) {
	c.alive = true
	h.sendHeartbeat(c.Member)
}

func (h *history) expire(key record.MemberKey) {
	if h.store.isMember(key) {
		h.store.put(cache.Change{MemberGone: &key})
	}
}

func pick[T any](h *history, all []T) T { return all[h.IntN(len(all))] }

// start starts a call, which pauses at once.
func (h *history) start(o *op, call func(ctx context.Context, n *simNode)) {
	o.resume, o.paused = make(chan struct{}), make(chan bool)
	o.losesAnswer = h.IntN(40) == 0
	ctx := context.WithValue(context.Background(), opKey{}, o)
	n := pick(h, h.nodes)
	go func() {
		<-o.resume
		call(ctx, n)
		o.paused <- false
	}()
	h.running = append(h.running, o)
}

// advance resumes one of the calls until its next access to the store.
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
