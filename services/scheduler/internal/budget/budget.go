// Package budget bounds how many bytes each CDN instance is asked to send at
// the same time, over all tasks of a scheduler. It knows instances by name
// only; what the bytes are is the swarms' business.
package budget

import "sync"

// Budget counts the bytes under way from every CDN instance. It is safe for
// concurrent use.
type Budget struct {
	limit int64

	mu   sync.Mutex // guards used
	used map[string]int64
}

// New makes a budget of limit bytes an instance.
func New(limit int64) *Budget {
	return &Budget{limit: limit, used: make(map[string]int64)}
}

// Take books n bytes at an instance and tells whether they fit. With force
// they are booked in any case: each task may have a few pieces under way, so
// that slow peers of one task cannot lock the others out.
func (b *Budget) Take(instance string, n int64, force bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !force && b.used[instance]+n > b.limit {
		return false
	}
	b.used[instance] += n
	return true
}

// Used is how many bytes an instance has under way.
func (b *Budget) Used(instance string) int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used[instance]
}

// Spare tells whether an instance has less than half of its limit under way.
func (b *Budget) Spare(instance string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used[instance] < b.limit/2
}

// Give returns n bytes that were taken.
func (b *Budget) Give(instance string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used[instance] -= n; b.used[instance] <= 0 {
		delete(b.used, instance)
	}
}
