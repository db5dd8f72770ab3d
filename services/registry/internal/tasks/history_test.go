package tasks_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/services/registry/internal/cache"
	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

const (
	// How many histories are explored, and from which seed on.
	countEnv = "REGISTRY_HISTORIES"
	seedEnv  = "REGISTRY_SEED"

	histories = 1200
	events    = 120
	mostCalls = 4
)

func setting(t *testing.T, name string, otherwise uint64) uint64 {
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 64)
	require.NoError(t, err, name)
	return n
}

// step is one event: something of the world happens, a call begins, or one of
// those under way goes on.
func (h *history) step() {
	if len(h.running) > 0 && (len(h.running) >= mostCalls || h.IntN(2) == 0) {
		h.advance()
		return
	}
	id, c, s := pick(h, h.tasks), pick(h, h.cdns), pick(h, h.schedulers)
	switch n := h.IntN(100); {
	case n < 20:
		h.resolve(s, id, false)
	case n < 40:
		h.work(c, id)
	case n < 47:
		h.repair(c, id)
	case n < 51:
		h.move(id)
	case n < 54:
		h.resign(c, id)
	case n < 61:
		for range 4 { // mostly what no record names it for
			if d := c.disk[id]; c.alive && d.pieces > 0 && !h.store.tasks[id].Names(c.ID) {
				break
			}
			id, c = pick(h, h.tasks), pick(h, h.cdns)
		}
		h.announce(c, id)
	case n < 74:
		pick(h, h.nodes).follow(1 + h.IntN(6))
	case n < 97:
		h.fate(n, c, s, id)
	default:
		h.disaster()
	}
}

// fate is what happens to machines.
func (h *history) fate(n int, c *simCDN, s *simScheduler, id string) {
	key := c.Key()
	switch {
	case n < 77: // killed: the lease goes on for a while
		c.alive = false
	case n < 81: // a lease ends, of one that is dead or only was stopped
		if len(h.running) > 0 && h.IntN(2) == 0 {
			if caller := pick(h, h.running).cdn; caller != "" {
				key.ID = caller
			}
		}
		h.expire(key)
	case n < 85: // it comes back, or goes on, and tells what it has
		h.join(c)
		h.announce(c, id)
	case n < 88:
		if h.IntN(2) == 0 {
			h.expire(s.Key())
		} else {
			h.beat(s.Member)
		}
	case n < 92: // whoever lives sends its heartbeat
		h.allBeat()
		h.store.young = false
	case n < 94:
		if _, marked := h.store.marks[key]; marked {
			h.store.put(cache.Change{DrainMarkGone: &key})
		} else {
			h.store.put(cache.Change{DrainMark: &key})
		}
	case n < 96:
		node := pick(h, h.nodes)
		node.handle.away = !node.handle.away
	default:
		h.versions[id]++
	}
}

// disaster is what happens to the store.
func (h *history) disaster() {
	switch {
	case h.IntN(2) == 0:
		h.store.empty()
		h.backup = nil
		if h.IntN(2) == 0 {
			h.allBeat()
		}
	case h.backup == nil:
		backup := h.store.clone()
		h.backup = &backup
	default:
		h.store.restore(*h.backup)
		h.backup = nil
	}
}

func (h *history) allBeat() {
	for _, c := range h.cdns {
		if c.alive {
			h.beat(c.Member)
		}
	}
	for _, s := range h.schedulers {
		h.beat(s.Member)
	}
}

// run plays a history, lets the cluster come to rest, and tells what was wrong.
func (h *history) run() error {
	for range events {
		h.step()
		if h.store.broken != nil {
			break
		}
	}
	h.finishAll()
	if h.store.broken == nil {
		h.settle()
	}
	return h.store.broken
}

// settle has everybody who lives do what is his once more, undisturbed.
func (h *history) settle() {
	h.store.marks = make(map[record.MemberKey]int64)
	h.cdns[0].alive = true
	for _, n := range h.nodes {
		n.handle.away = false
	}
	for _, c := range h.cdns {
		if c.alive {
			h.join(c)
		} else {
			h.expire(c.Key())
		}
	}
	h.allBeat()
	h.store.young = false
	for _, id := range h.tasks {
		for _, s := range h.schedulers {
			h.calmly(func() { h.resolve(s, id, true) })
		}
		for _, c := range h.cdns {
			if cur := h.store.tasks[id]; !cur.Names(c.ID) || cur.Epoch < c.disk[id].epoch {
				h.calmly(func() { h.announce(c, id) })
			}
		}
		for _, c := range h.cdns {
			if c.alive && h.store.tasks[id].Names(c.ID) {
				h.calmly(func() { h.repair(c, id) })
			}
		}
		h.atRest(id)
	}
}

func (h *history) calmly(call func()) {
	for _, n := range h.nodes {
		n.list()
	}
	call()
	for _, o := range h.running {
		o.loses = false
	}
	h.finishAll()
}

// atRest: whoever lives and has a whole copy is named, there are as many copies
// as there should be, and nobody remembers an epoch that is not yet.
func (h *history) atRest(id string) {
	cur, alive := h.store.tasks[id], 0
	for _, c := range h.cdns {
		if c.alive {
			alive++
		} else if cur.Names(c.ID) {
			h.store.violated("%s: at rest, dead %s is named", id, c.ID)
		}
		d := c.disk[id]
		if c.alive && d.whole() && d.copyOf(id).Matches(cur) && !cur.Names(c.ID) {
			h.store.violated("%s: at rest, the whole copy of %s is forgotten", id, c.ID)
		}
		if c.alive && d.pieces > 0 && d.epoch > cur.Epoch {
			h.store.violated("%s: at rest, epoch %d, and %s remembers %d", id, cur.Epoch, c.ID, d.epoch)
		}
	}
	if cur.Owner == "" || len(cur.Copies()) < min(h.copies, alive) {
		h.store.violated("%s: at rest, owner %q and replicas %v of %d alive", id, cur.Owner, cur.Replicas, alive)
	}
	for _, s := range h.schedulers {
		if last := s.last[id]; last.Epoch > cur.Epoch {
			h.store.violated("%s: at rest, epoch %d, and %s remembers %d", id, cur.Epoch, s.ID, last.Epoch)
		}
	}
}

// TestHistories explores interleavings of claims, ends of leases, takeovers by
// word and by lease, revivals, repairs, moves, resignations, drains, announced
// copies, and stores that are away, emptied or restored, through registries
// whose copies lag.
func TestHistories(t *testing.T) {
	first, count := setting(t, seedEnv, 1), setting(t, countEnv, histories)
	began, eras, writes := time.Now(), 0, make(map[string]int)
	for seed := first; seed < first+count; seed++ {
		h := newHistory(seed, sound)
		if err := h.run(); err != nil {
			require.NoError(t, err, "%s=%d", seedEnv, seed)
		}
		eras += h.store.eras
		for kind, n := range h.store.writes {
			writes[kind] += n
		}
	}
	told := ""
	for _, kind := range slices.Sorted(maps.Keys(writes)) {
		told += fmt.Sprintf(" %s %d", kind, writes[kind])
	}
	t.Logf("%d histories of %d events, %d eras, in %s; writes:%s", count, events, eras, time.Since(began).Round(time.Millisecond), told)
}

// The histories are worth something only if they find what is wrong.
func TestHistoriesFindFlaws(t *testing.T) {
	for _, f := range []flaw{noRevision, noEra, noGone, noThere, epochStays, copyForgotten, memoryIgnored, copyRefused} {
		t.Run(string(f), func(t *testing.T) {
			for seed := uint64(1); ; seed++ {
				require.LessOrEqual(t, seed, uint64(3*histories), "not found")
				if err := newHistory(seed, f).run(); err != nil {
					t.Logf("found by history %d: %v", seed, err)
					return
				}
			}
		})
	}
}
