package capacity

import "time"

// Task is one task's use of all instances. Close must follow. Its methods are
// called by one goroutine at a time.
type Task struct {
	shares *Shares
	wake   chan struct{}
	names  map[string]struct{} // instances that have a use of the task
}

// NewTask returns a task that uses nothing yet.
func (s *Shares) NewTask() *Task {
	return &Task{shares: s, wake: make(chan struct{}, 1), names: make(map[string]struct{})}
}

// Wake receives a signal when an instance that refused the task of late may grant
// it a transfer.
func (t *Task) Wake() <-chan struct{} { return t.wake }

// Take takes a transfer from an instance, if the window and the task's share of
// it allow that.
func (t *Task) Take(name string, now time.Time) bool {
	s := t.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.at(name)
	u := in.uses[t]
	if u == nil {
		u = new(use)
		in.uses[t], t.names[name] = u, struct{}{}
	}
	in.asked.push(t, now)
	if in.room(t, u.inFlight, now) == 0 {
		in.limited = true
		in.refused.push(t, now)
		s.refusals.Inc()
		return false
	}
	in.refused.remove(t)
	u.inFlight++
	in.inFlight++
	return true
}

// Release ends a transfer that was taken.
func (t *Task) Release(name string) {
	s := t.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	in := s.instances[name]
	if in == nil || in.uses[t] == nil || in.uses[t].inFlight == 0 {
		return
	}
	in.uses[t].inFlight--
	in.inFlight--
	in.refused.wake(woken)
}

// Free returns how many more transfers Take would grant now.
func (t *Task) Free(name string, now time.Time) int {
	t.shares.mu.Lock()
	defer t.shares.mu.Unlock()
	in := t.shares.instances[name]
	if in == nil {
		return Default
	}
	used := 0
	if u := in.uses[t]; u != nil {
		used = u.inFlight
	}
	return in.room(t, used, now)
}

// Window returns how many transfers all tasks of this scheduler may have in
// flight from an instance.
func (t *Task) Window(name string) int {
	t.shares.mu.Lock()
	defer t.shares.mu.Unlock()
	if in := t.shares.instances[name]; in != nil {
		return in.size()
	}
	return Default
}

// Rate returns the number of bytes per second that an instance sends to all
// peers, 0 if it is unknown.
func (t *Task) Rate(name string) int64 { return t.shares.Rate(name) }

// Close ends all transfers of the task.
func (t *Task) Close() {
	s := t.shares
	s.mu.Lock()
	defer s.mu.Unlock()
	for name := range t.names {
		in := s.instances[name]
		in.inFlight -= in.uses[t].inFlight
		delete(in.uses, t)
		in.asked.remove(t)
		in.refused.remove(t)
		in.refused.wake(in.refused.len())
		s.tidy(name, in)
	}
	clear(t.names)
}
