package reconciler

import (
	"time"

	"github.com/supernode-ha/supernode/pkg/cluster"
)

// members holds the CDN members, and the departure times of CDNs that are not members.
type members struct {
	self     string
	byID     map[string]cluster.Member
	ready    int // number of members that are not draining
	departed map[string]departure
}

// departure is the time at which this instance first found that a CDN is not a member.
type departure struct {
	at time.Time
	// seen is set if the CDN was a member before. A CDN that was never a member may be
	// about to join: when a whole cluster starts, the first instances must not take the
	// tasks of those that start a moment later.
	seen bool
}

func newMembers(self string) *members {
	return &members{self: self, byID: make(map[string]cluster.Member), departed: make(map[string]departure)}
}

// memberChange is the difference between two lists of members.
type memberChange struct {
	// ids are the members that joined, left, or changed their draining state.
	ids []string
	// newTarget is set if a member accepts tasks that did not accept them before.
	newTarget bool
	// joined is set if this instance joined, self if it is among ids.
	joined, self bool
}

// update stores a new list of members and returns what has changed.

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

// accepts reports whether a CDN is a member that accepts tasks.
func (m *members) accepts(id string) bool {
	member, there := m.byID[id]
	return there && !member.Draining
}

// departureOf returns the departure of a CDN that is not a member. If there is none yet,
// it stores one with the time now.
func (m *members) departureOf(id string, now time.Time) departure {
	d, known := m.departed[id]
	if !known {
		d = departure{at: now}
		m.departed[id] = d
	}
	return d
}

// prune removes the departures of CDNs that no record names.
func (m *members) prune(named func(string) bool) {
	for id := range m.departed {
		if !named(id) {
			delete(m.departed, id)
		}
	}
}
