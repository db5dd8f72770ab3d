package keeper

import (
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// crowd is the CDNs of the cluster, and since when those are gone that were there.
type crowd struct {
	self     string
	members  map[string]cluster.Member
	ready    int // members that are not draining
	departed map[string]departure
}

// departure is when a member was missed first.
type departure struct {
	at time.Time
	// seen says that it had been there. One that has never been seen may be
	// about to come: a whole cluster that starts must not take its tasks from
	// those who start a moment later.
	seen bool
}

func newCrowd(self string) *crowd {
	return &crowd{self: self, members: make(map[string]cluster.Member), departed: make(map[string]departure)}
}

// change is what is different in a new list.
type change struct {
	// of are the ids of those who came, went, or began or ended draining.
	of []string
	// more says that somebody takes tasks who did not before.
	more bool
	// joined and self say that this instance came, or is among of.
	joined, self bool
}

func (c *crowd) update(list []cluster.Member, now time.Time) change {
	var ch change
	members := make(map[string]cluster.Member, len(list))
	c.ready = 0
	for _, m := range list {
		members[m.ID] = m
		before, there := c.members[m.ID]
		if !m.Draining {
			c.ready++
			ch.more = ch.more || !there || before.Draining
		}
		if !there || before.Draining != m.Draining {
			ch.of = append(ch.of, m.ID)
			ch.self = ch.self || m.ID == c.self
			ch.joined = ch.joined || m.ID == c.self && !there
		}
		delete(c.departed, m.ID)
	}
	for id := range c.members {
		if _, there := members[id]; !there {
			ch.of = append(ch.of, id)
			ch.self = ch.self || id == c.self
			c.departed[id] = departure{at: now, seen: true}
		}
	}
	c.members = members
	return ch
}

func (c *crowd) live(id string) bool {
	_, there := c.members[id]
	return there
}

func (c *crowd) takes(id string) bool {
	m, there := c.members[id]
	return there && !m.Draining
}

// missed says since when a member that is not there is missed.
func (c *crowd) missed(id string, now time.Time) departure {
	d, known := c.departed[id]
	if !known {
		d = departure{at: now}
		c.departed[id] = d
	}
	return d
}

// prune forgets departures that concern nobody.
func (c *crowd) prune(named func(string) bool) {
	for id := range c.departed {
		if !named(id) {
			delete(c.departed, id)
		}
	}
}
