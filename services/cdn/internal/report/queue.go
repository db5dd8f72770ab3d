package report

// put replaces what was pending of the task. It is false if there is no room.
func (q *queue) put(u Update) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.add(u)
}

// add is put, under mu.
func (q *queue) add(u Update) bool {
	if _, known := q.pending[u.ID]; !known {
		if len(q.order) >= maxPending {
			return false
		}
		q.order = append(q.order, u.ID)
	}
	q.pending[u.ID] = u
	select {
	case q.wake <- struct{}{}:
	default: // it is awake, or going to be
	}
	return true
}

// putBack returns what was taken, unless there is something newer. It is dropped
// if there is no room any more.
func (q *queue) putBack(u Update) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, newer := q.pending[u.ID]; !newer {
		q.add(u)
	}
}

// take removes the oldest.
func (q *queue) take() (Update, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.order) > 0 {
		id := q.order[0]
		q.order = q.order[1:]
		if u, ok := q.pending[id]; ok {
			delete(q.pending, id)
			return u, true
		}
	}
	return Update{}, false
}
