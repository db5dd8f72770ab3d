package cache

import (
	"maps"
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Load is the number of records that name a CDN as owner, and as a replica.
type Load struct{ Owned, Replicated int }

// memberTasks holds the tasks whose records name one member.
type memberTasks struct {
	tasks map[string]struct{}
	load  Load
}

// memberIndex holds the tasks of every member that a record names.
type memberIndex map[record.MemberKey]*memberTasks

// membersOf returns the members that a record names, each once.
func membersOf(t record.Task) []record.MemberKey {
	keys := make([]record.MemberKey, 0, 4)
	copies := t.Copies()
	for i, id := range copies {
		// A record that was written by an operator may name a CDN twice.
		if !slices.Contains(copies[:i], id) {
			keys = append(keys, record.MemberKey{Role: record.RoleCDN, ID: id})
		}
	}
	if t.Scheduler != "" {
		keys = append(keys, t.SchedulerKey())
	}
	return keys
}

func (x memberIndex) add(id string, t record.Task) {
	for _, key := range membersOf(t) {
		m := x[key]
		if m == nil {
			m = &memberTasks{tasks: make(map[string]struct{})}
			x[key] = m
		}
		m.tasks[id] = struct{}{}
		m.count(key, t, 1)
	}
}

func (x memberIndex) remove(id string, t record.Task) {
	for _, key := range membersOf(t) {
		m := x[key]
		delete(m.tasks, id)
		m.count(key, t, -1)
		if len(m.tasks) == 0 {
			delete(x, key)
		}
	}
}

// count adds n to the load if key is a CDN.
func (m *memberTasks) count(key record.MemberKey, t record.Task, n int) {
	switch {
	case key.Role != record.RoleCDN:
	case key.ID == t.Owner:
		m.load.Owned += n
	default:
		m.load.Replicated += n
	}
}

// setTask calls change, which changes one record, and updates the index and the
// watches. The caller holds mu.
func (c *Cache) setTask(id string, change func()) {
	before, had := c.tasks.get(id)
	change()
	after, has := c.tasks.get(id)
	if had == has && before.Revision == after.Revision {
		return
	}
	if had {
		c.byMember.remove(id, before)
		c.notifyWatches(id, before)
	}
	if has {
		c.byMember.add(id, after)
		c.notifyWatches(id, after)
	}
}

// Task returns a record, and the era of the store that it was read in.
func (c *Cache) Task(id string) (task record.Task, era string, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	task, ok = c.tasks.get(id)
	return task, c.era, ok
}

// Load returns the load of a CDN.
func (c *Cache) Load(cdn string) Load {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if m := c.byMember[record.MemberKey{Role: record.RoleCDN, ID: cdn}]; m != nil {
		return m.load
	}
	return Load{}
}

// Loads returns the load of every CDN that a record names.
func (c *Cache) Loads() map[string]Load {
	c.mu.RLock()
	defer c.mu.RUnlock()
	loads := make(map[string]Load)
	for key, m := range c.byMember {
		if key.Role == record.RoleCDN {
			loads[key.ID] = m.load
		}
	}
	return loads
}

// Tasks returns a page of records in the order of their task ids: those after the id
// in after, at most limit, and about maxBytes in total. more is set if there are
// further ones. If member is not empty, only records that name that CDN or scheduler
// are returned.
func (c *Cache) Tasks(member, after string, limit int) (page []record.Task, more bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found := make(map[string]struct{})
	if member == "" {
		for id, e := range c.tasks {
			if !e.deleted && id > after {
				found[id] = struct{}{}
			}
		}
	}
	for _, role := range []record.Role{record.RoleCDN, record.RoleScheduler} {
		if m := c.byMember[record.MemberKey{Role: role, ID: member}]; m != nil {
			for id := range m.tasks {
				if id > after {
					found[id] = struct{}{}
				}
			}
		}
	}
	ids := slices.Sorted(maps.Keys(found))
	bytes := 0
	for _, id := range ids {
		if len(page) == limit || bytes >= maxBytes {
			return page, true
		}
		page = append(page, c.tasks[id].value)
		bytes += approxSize(c.tasks[id].value)
	}
	return page, false
}
