package origin

import (
	"context"
	"fmt"
	"net/http"
	"sync"
)

// Stats is what was asked for and sent, of one path or of all.
type Stats struct {
	// Requests counts all of them, whatever was answered.
	Requests int64
	// Bodies counts the 200 and 206 responses to a GET that sent a byte of
	// body, or ended with all of an empty one.
	Bodies int64
	// NotModified counts the 304 responses.
	NotModified int64
	// BytesSent counts the bytes of 200 and 206 bodies given to the network.
	BytesSent int64
	// Active is how many requests are being answered now.
	Active int64
	// LastHeaders are those of the latest request, Host included.
	LastHeaders http.Header
}

// ledger counts by path. Its lock guards the counts and the changed channel,
// which is closed and replaced at every change.
type ledger struct {
	mu      sync.Mutex
	paths   map[string]*Stats
	total   Stats
	changed chan struct{}
}

func newLedger() *ledger {
	return &ledger{paths: make(map[string]*Stats), changed: make(chan struct{})}
}

// note applies change to the counts of the path and to those of all.
func (l *ledger) note(path string, change func(*Stats)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.paths[path]
	if s == nil {
		s = &Stats{}
		l.paths[path] = s
	}
	change(s)
	change(&l.total)
	close(l.changed)
	l.changed = make(chan struct{})
}

// read gives the counts of a path, or of all for "", and what is closed when
// any of them changes.
func (l *ledger) read(path string) (Stats, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := &l.total
	if path != "" {
		if s = l.paths[path]; s == nil {
			s = &Stats{}
		}
	}
	copied := *s
	copied.LastHeaders = s.LastHeaders.Clone()
	return copied, l.changed
}

// Stats gives the counts of a path.
func (o *Origin) Stats(path string) Stats {
	s, _ := o.ledger.read(path)
	return s
}

// Total gives the counts of all paths together.
func (o *Origin) Total() Stats { return o.Stats("") }

// Await returns as soon as the condition holds for the counts of a path, or of
// all paths when it is "". It gives an error when the context ends before.
func (o *Origin) Await(ctx context.Context, path string, holds func(Stats) bool) error {
	for {
		s, changed := o.ledger.read(path)
		if holds(s) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("awaiting the origin at %+v: %w", s, ctx.Err())
		}
	}
}
