package cache

// entry is what is known of one key. A gone entry remembers a deletion of this
// process that the watch has not told yet.
type entry[V any] struct {
	value V
	rev   int64
	gone  bool
}

// table is a copy of the keys of one kind. It takes news in any order and
// keeps the newest of each key.
type table[K comparable, V any] map[K]entry[V]

func (t table[K, V]) get(key K) (V, bool) {
	e, ok := t[key]
	return e.value, ok && !e.gone
}

// watched takes news of the watch, which come in the store's order.
func (t table[K, V]) watched(key K, e entry[V]) {
	if t[key].rev > e.rev {
		return
	}
	if e.gone {
		delete(t, key)
		return
	}
	t[key] = e
}

// fed takes news of a write of this process. What is not newer than the watch
// (seen) has been told by it already, perhaps together with what came after.
func (t table[K, V]) fed(key K, e entry[V], seen int64) bool {
	if e.rev <= seen || t[key].rev >= e.rev {
		return false
	}
	t[key] = e
	return true
}

// replaced gives the table of a complete list at revision rev, and keeps what
// was written here after the list was made.
func (t table[K, V]) replaced(list table[K, V], rev int64) table[K, V] {
	for key, e := range t {
		if e.rev > rev {
			list[key] = e
		}
	}
	return list
}
