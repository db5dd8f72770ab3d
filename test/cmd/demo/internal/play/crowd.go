package play

import (
	"sync"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/demo/internal/scene"
	"github.com/supernode-ha/supernode/test/peer"
)

// crowd is how far the peers are, as they tell themselves.
type crowd struct {
	size  int64
	names map[string]string // of supernodes, by the address of their gateway

	mu    sync.Mutex // guards seats
	seats []seat
}

// seat is one peer's.
type seat struct {
	at         string // the address of its gateway
	migrations int
	pieces     map[string]int64 // bytes by range
	bytes      int64
	latest     time.Time // the latest piece, or the registration
	stall      time.Duration
}

func newCrowd(size int64, names map[string]string) *crowd {
	c := &crowd{size: size, names: names, seats: make([]seat, peers)}
	for i := range c.seats {
		c.seats[i].pieces = make(map[string]int64)
	}
	return c
}

// observe gives the observer of a peer.
func (c *crowd) observe(i int) func(peer.Event) {
	return func(e peer.Event) {
		c.mu.Lock()
		defer c.mu.Unlock()
		s := &c.seats[i]
		switch e.Kind {
		case peer.Registered:
			if e.Err != nil {
				return
			}
			s.at = e.Node
			if s.latest.IsZero() {
				s.latest = e.Time
			}
		case peer.Migrated:
			s.migrations++
		case peer.Arrived:
			if _, here := s.pieces[e.Range]; here {
				return
			}
			s.pieces[e.Range] = e.Bytes
			s.bytes += e.Bytes
			s.stall = max(s.stall, e.Time.Sub(s.latest))
			s.latest = e.Time
		default:
		}
	}
}

// peers are how they are now.
func (c *crowd) peers() []scene.Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	list := make([]scene.Peer, len(c.seats))
	for i, s := range c.seats {
		list[i] = scene.Peer{Share: float64(s.bytes) / float64(c.size), Supernode: c.names[s.at], Migrations: s.migrations}
	}
	return list
}

// stall is the longest of all, those that got not all of the file until now.
func (c *crowd) stall(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	var worst time.Duration
	for _, s := range c.seats {
		worst = max(worst, s.stall)
		if !s.latest.IsZero() && s.bytes < c.size {
			worst = max(worst, now.Sub(s.latest))
		}
	}
	return worst
}
