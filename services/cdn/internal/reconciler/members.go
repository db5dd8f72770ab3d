package reconciler

import (
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// members is the CDNs of the cluster, and since when those are gone that were there.
type members struct {
	self     string
	byID     map[string]cluster.Member
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

func newMembers(self string) *members {
	return &members{self: self, byID: make(map[string]cluster.Member), departed: make(map[string]departure)}
}

// memberChange is what is different in a new list.
type memberChange struct {
	// ids are the ids of those who came, went, or began or ended draining.
	ids []string
	// newTarget says that somebody takes tasks who did not before.
	newTarget bool
	// joined and self say that this instance came, or is among ids.
	joined, self bool
}

func (m *members) update(list []cluster.Member, now time.Time) memberChange {
	var ch memberChange
	byID := make(map[string]cluster.Member, len(list))
	m.ready = 0
	for _, member := range list {
		byID[member.ID] = member
		before, there := m.byID[member.ID]
		if !member.Draining {
			m.ready++
			ch.newTarget = ch.newTarget || !there || before.Draining
		}
		if !there || before.Draining != member.Draining {
			ch.ids = append(ch.ids, member.ID)
			ch.self = ch.self || member.ID == m.self
			ch.joined = ch.joined || member.ID == m.self && !there
		}
		delete(m.departed, member.ID)
	}
	for id := range m.byID {
		if _, there := byID[id]; !there {
			ch.ids = append(ch.ids, id)
			ch.self = ch.self || id == m.self
			m.departed[id] = departure{at: now, seen: true}
		}
	}
	m.byID = byID
	return ch
}

func (m *members) isMember(id string) bool {
	_, there := m.byID[id]
	return there
}

func (m *members) accepts(id string) bool {
	member, there := m.byID[id]
	return there && !member.Draining
}

// departureOf says since when a member that is not there is missed.
func (m *members) departureOf(id string, now time.Time) departure {
	d, known := m.departed[id]
	if !known {
		d = departure{at: now}
		m.departed[id] = d
	}
	return d
}

// prune forgets departures that concern nobody.
func (m *members) prune(named func(string) bool) {
	for id := range m.departed {
		if !named(id) {
			delete(m.departed, id)
		}
	}
}
