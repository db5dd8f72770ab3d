package cache

// entry is the value of one key. An entry that is deleted stands for a deletion by this
// process that the watch has not delivered yet.
type entry[V any] struct {
	value   V
	rev     int64
	deleted bool
}

// table holds the keys of one kind. It accepts changes in any order and keeps the newest
// value of each key.
type table[K comparable, V any] map[K]entry[V]

func (t table[K, V]) get(key K) (V, bool) {
	e, ok := t[key]
	return e.value, ok && !e.deleted
}

// applyEvent applies an event of the watch. Events come in the store's order.
func (t table[K, V]) applyEvent(key K, e entry[V]) {
	if t[key].rev > e.rev {
		return
	}
	if e.deleted {
		delete(t, key)
		return
	}
	t[key] = e
}

// applyWrite applies a write of this process, and reports whether it has changed the
// table. A write up to the revision that the watch has reached is ignored: the watch has
// delivered it already, and perhaps later changes of the key.
func (t table[K, V]) applyWrite(key K, e entry[V], reached int64) bool {
	if e.rev <= reached || t[key].rev >= e.rev {
		return false
	}
	t[key] = e
	return true
}

// copyNewer copies the entries that are newer than rev to list, which is a complete list
// of the store at revision rev.
func (t table[K, V]) copyNewer(list table[K, V], rev int64) {
	for key, e := range t {
		if e.rev > rev {
			list[key] = e
		}
	}
}
