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
	// The environment variables that set the number of histories and the first seed.
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

// step makes one event: a machine or the store changes, a call starts, or one that is
// running continues.
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
		for range 4 { // prefer copies whose records do not name the CDN
			if d := c.disk[id]; c.alive && d.pieces > 0 && !h.store.tasks[id].Names(c.ID) {
				break
			}
			id, c = pick(h, h.tasks), pick(h, h.cdns)
		}
		h.announce(c, id)
	case n < 74:
		pick(h, h.nodes).follow(1 + h.IntN(6))
	case n < 97:
		h.machineEvent(n, c, s, id)
	default:
		h.storeEvent()
	}
}

// machineEvent makes an event of a machine.
func (h *history) machineEvent(n int, c *simCDN, s *simScheduler, id string) {
	key := c.Key()
	switch {
	case n < 77: // the CDN is killed; its lease lives on
		c.alive = false
	case n < 81: // a lease expires, of a CDN that is dead or only stopped
		if len(h.running) > 0 && h.IntN(2) == 0 {
			if caller := pick(h, h.running).cdn; caller != "" {
				key.ID = caller
			}
		}
		h.expire(key)
	case n < 85: // the CDN starts or continues, and announces a copy
		h.join(c)
		h.announce(c, id)
	case n < 88:
		if h.IntN(2) == 0 {
			h.expire(s.Key())
		} else {
			h.sendHeartbeat(s.Member)
		}
	case n < 92: // all that are alive send a heartbeat
		h.sendHeartbeats()
		h.store.young = false
	case n < 94:
		if _, marked := h.store.marks[key]; marked {
			h.store.put(cache.Change{DrainMarkGone: &key})
		} else {
			h.store.put(cache.Change{DrainMark: &key})
		}
	case n < 96:
		node := pick(h, h.nodes)
		node.handle.unavailable = !node.handle.unavailable
	default:
		h.versions[id]++
	}
}

// storeEvent empties the store, takes a backup of it, or restores it.
func (h *history) storeEvent() {
	switch {
	case h.IntN(2) == 0:
		h.store.empty()
		h.backup = nil
		if h.IntN(2) == 0 {
			h.sendHeartbeats()
		}
	case h.backup == nil:
		backup := h.store.clone()
		h.backup = &backup
	default:
		h.store.restore(*h.backup)
		h.backup = nil
	}
}

func (h *history) sendHeartbeats() {
	for _, c := range h.cdns {
		if c.alive {
			h.sendHeartbeat(c.Member)
		}
	}
	for _, s := range h.schedulers {
		h.sendHeartbeat(s.Member)
	}
}

// run makes the events of a history, settles the cluster, and returns the first violation
// of an invariant.
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

// settle makes all that are alive make their calls once more, one after the other.
func (h *history) settle() {
	h.store.marks = make(map[record.MemberKey]int64)
	h.cdns[0].alive = true
	for _, n := range h.nodes {
		n.handle.unavailable = false
	}
	for _, c := range h.cdns {
		if c.alive {
			h.join(c)
		} else {
			h.expire(c.Key())
		}
	}
	h.sendHeartbeats()
	h.store.young = false
	for _, id := range h.tasks {
		for _, s := range h.schedulers {
			h.runUndisturbed(func() { h.resolve(s, id, true) })
		}
		for _, c := range h.cdns {
			if cur := h.store.tasks[id]; !cur.Names(c.ID) || cur.Epoch < c.disk[id].epoch {
				h.runUndisturbed(func() { h.announce(c, id) })
			}
		}
		for _, c := range h.cdns {
			if c.alive && h.store.tasks[id].Names(c.ID) {
				h.runUndisturbed(func() { h.repair(c, id) })
			}
		}
		h.checkSettled(id)
	}
}

func (h *history) runUndisturbed(call func()) {
	for _, n := range h.nodes {
		n.list()
	}
	call()
	for _, o := range h.running {
		o.losesAnswer = false
	}
	h.finishAll()
}

// checkSettled checks that the record of a task names all CDNs that are alive and have a
// whole copy, that there are enough copies, and that no CDN or scheduler has received a
// higher epoch.
func (h *history) checkSettled(id string) {
	cur, alive := h.store.tasks[id], 0
	for _, c := range h.cdns {
		if c.alive {
			alive++
		} else if cur.Names(c.ID) {
			h.store.violated("%s: settled, and %s is dead and named", id, c.ID)
		}
		d := c.disk[id]
		if c.alive && d.whole() && d.copyOf(id).Matches(cur) && !cur.Names(c.ID) {
			h.store.violated("%s: settled, and %s has a whole copy and is not named", id, c.ID)
		}
		if c.alive && d.pieces > 0 && d.epoch > cur.Epoch {
			h.store.violated("%s: settled in epoch %d, and %s has received %d", id, cur.Epoch, c.ID, d.epoch)
		}
	}
	if cur.Owner == "" || len(cur.Copies()) < min(h.copies, alive) {
		h.store.violated("%s: settled with owner %q and replicas %v, and %d CDNs are alive", id, cur.Owner, cur.Replicas, alive)
	}
	for _, s := range h.schedulers {
		if last := s.last[id]; last.Epoch > cur.Epoch {
			h.store.violated("%s: settled in epoch %d, and %s has received %d", id, cur.Epoch, s.ID, last.Epoch)
		}
	}
}

// TestHistories explores interleavings of claims, ends of leases, takeovers after reports
// and after ends of leases, restarts, repairs, moves, resignations, drains, announced
// copies, and stores that are unavailable, emptied or restored, with registries whose
// caches lag.
func TestHistories(t *testing.T) {
	first, count := setting(t, seedEnv, 1), setting(t, countEnv, histories)
	began, eras, writes := time.Now(), 0, make(map[string]int)
	for seed := first; seed < first+count; seed++ {
		h := newHistory(seed, noFlaw)
		if err := h.run(); err != nil {
			require.NoError(t, err, "%s=%d", seedEnv, seed)
		}
		eras += h.store.eras
		for kind, n := range h.store.writes {
			writes[kind] += n
		}
	}
	summary := ""
	for _, kind := range slices.Sorted(maps.Keys(writes)) {
		summary += fmt.Sprintf(" %s %d", kind, writes[kind])
	}
	t.Logf("%d histories of %d events, %d eras, in %s; writes:%s", count, events, eras, time.Since(began).Round(time.Millisecond), summary)
}

func TestHistoriesFindEveryFlaw(t *testing.T) {
	for _, f := range []flaw{revisionIgnored, eraIgnored, absenceIgnored, presenceIgnored, epochNotRaised, copyDropped, usedEpochIgnored, copyNotAdded} {
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
