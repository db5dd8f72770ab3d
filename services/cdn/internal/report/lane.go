package report

// put replaces what was pending of the task. It is false if there is no room.
func (l *lane) put(u Update) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.add(u)
}

// add is put, under mu.
func (l *lane) add(u Update) bool {
	if _, known := l.pending[u.ID]; !known {
		if len(l.order) >= mostPending {
			return false
		}
		l.order = append(l.order, u.ID)
	}
	l.pending[u.ID] = u
	select {
	case l.wake <- struct{}{}:
	default: // it is awake, or going to be
	}
	return true
}

// putBack returns what was taken, unless there is something newer. It is dropped
// if there is no room any more.
func (l *lane) putBack(u Update) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, newer := l.pending[u.ID]; !newer {
		l.add(u)
	}
}

// take removes the oldest.
func (l *lane) take() (Update, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.order) > 0 {
		id := l.order[0]
		l.order = l.order[1:]
		if u, ok := l.pending[id]; ok {
			delete(l.pending, id)
			return u, true
		}
	}
	return Update{}, false
}
