package cache

import (
	"maps"
	"slices"

	"github.com/supernode-ha/supernode/services/registry/internal/record"
)

// Load is how many records name a CDN.
type Load struct{ Owned, Replicated int }

// holding is the records that name one member.
type holding struct {
	tasks map[string]struct{}
	load  Load
}

// index is the records by whom they name.
type index map[record.MemberKey]*holding

// names gives the members that a record names, each once.
func names(t record.Task) []record.MemberKey {
	keys := make([]record.MemberKey, 0, 4)
	copies := t.Copies()
	for i, id := range copies {
		// What is stored may have been written by hand.
		if !slices.Contains(copies[:i], id) {
			keys = append(keys, record.MemberKey{Role: record.RoleCDN, ID: id})
		}
	}
	if t.Scheduler != "" {
		keys = append(keys, t.SchedulerKey())
	}
	return keys
}

func (x index) add(id string, t record.Task) {
	for _, key := range names(t) {
		h := x[key]
		if h == nil {
			h = &holding{tasks: make(map[string]struct{})}
			x[key] = h
		}
		h.tasks[id] = struct{}{}
		h.count(key, t, 1)
	}
}

func (x index) remove(id string, t record.Task) {
	for _, key := range names(t) {
		h := x[key]
		delete(h.tasks, id)
		h.count(key, t, -1)
		if len(h.tasks) == 0 {
			delete(x, key)
		}
	}
}

func (h *holding) count(key record.MemberKey, t record.Task, by int) {
	switch {
	case key.Role != record.RoleCDN:
	case key.ID == t.Owner:
		h.load.Owned += by
	default:
		h.load.Replicated += by
	}
}

// setTask lets change alter one record, and keeps index and watches in step.
// The caller holds mu.
func (c *Cache) setTask(id string, change func()) {
	before, had := c.tasks.get(id)
	change()
	after, has := c.tasks.get(id)
	if had == has && before.Revision == after.Revision {
		return
	}
	if had {
		c.named.remove(id, before)
		c.wake(id, before)
	}
	if has {
		c.named.add(id, after)
		c.wake(id, after)
	}
}

// Task gives a record as last seen, and the era of the store that it was seen in.
func (c *Cache) Task(id string) (task record.Task, era string, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	task, ok = c.tasks.get(id)
	return task, c.era, ok
}

// Load gives the load of a CDN.
func (c *Cache) Load(cdn string) Load {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if h := c.named[record.MemberKey{Role: record.RoleCDN, ID: cdn}]; h != nil {
		return h.load
	}
	return Load{}
}

// Loads gives the load of every CDN that a record names.
func (c *Cache) Loads() map[string]Load {
	c.mu.RLock()
	defer c.mu.RUnlock()
	loads := make(map[string]Load)
	for key, h := range c.named {
		if key.Role == record.RoleCDN {
			loads[key.ID] = h.load
		}
	}
	return loads
}

// Tasks gives at most limit records, and not too many bytes, behind a task id, in the order of their
// ids, and whether there are more; only those that name a member, as a CDN or
// a scheduler, unless member is empty.
func (c *Cache) Tasks(member, after string, limit int) (page []record.Task, more bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	found := make(map[string]struct{})
	if member == "" {
		for id, e := range c.tasks {
			if !e.gone && id > after {
				found[id] = struct{}{}
			}
		}
	}
	for _, role := range []record.Role{record.RoleCDN, record.RoleScheduler} {
		if h := c.named[record.MemberKey{Role: role, ID: member}]; h != nil {
			for id := range h.tasks {
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
		bytes += weight(c.tasks[id].value)
	}
	return page, false
}
