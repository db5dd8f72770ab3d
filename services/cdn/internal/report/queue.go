package report

// put replaces the pending update of a task. It returns false if the queue is full.
func (q *queue) put(u Update) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.add(u)
}

// add is put for a caller that holds mu.
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
	default: // a signal is pending already
	}
	return true
}

// putBack puts an update that was taken at the end of the queue, unless a newer update of
// the task is pending. The update is dropped if the queue is full.
func (q *queue) putBack(u Update) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, newer := q.pending[u.ID]; !newer {
		q.add(u)
	}
}

// take removes and returns the oldest update.
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
