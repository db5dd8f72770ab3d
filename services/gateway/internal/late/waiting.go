package late

import (
	"container/list"
	"iter"
	"time"
)

const (
	// A report is tried again after firstPause, then after twice as long each
	// time, up to the pause of the last step.
	firstPause = 250 * time.Millisecond
	steps      = 5
	lastPause  = firstPause << (steps - 1)
)

// entry is a report that waits.
type entry struct {
	Report
	until  time.Time // it is kept
	next   time.Time // it is not tried before that
	failed int       // attempts, as far as they make a difference

	kept place // among those that are kept as long, while it waits
	turn place // among those that are tried again, unless it is being tried
}

func (e *entry) waits() bool { return e.kept.in != nil }

// place is one of an entry in a list.
type place struct {
	in *list.List
	at *list.Element
}

func (p *place) enter(l *list.List, e *entry) {
	p.leave()
	*p = place{in: l, at: l.PushBack(e)}
}

func (p *place) leave() {
	if p.in != nil {
		p.in.Remove(p.at)
	}
	*p = place{}
}

// waiting is the reports that wait, in all the orders in which they go, so that
// none has to be searched for. It is empty at first and not safe for concurrent
// use.
type waiting struct {
	// Reports and those of them that are a stranger's, each in the order of
	// until, which is that of age.
	known, strangers list.List
	// turns are those that are not being tried, by how many attempts have
	// failed, each in the order of next.
	turns [steps]list.List
}

func (w *waiting) len() int { return w.known.Len() + w.strangers.Len() }

func (w *waiting) add(e *entry, now time.Time) {
	e.kept.enter(&w.known, e)
	w.line(e, now)
}

func (w *waiting) line(e *entry, now time.Time) {
	e.next = now.Add(firstPause << e.failed)
	e.turn.enter(&w.turns[e.failed], e)
}

// doubt makes it the report of a stranger, which is kept no longer than until.
func (w *waiting) doubt(e *entry, until time.Time) {
	if e.kept.in == &w.known && until.Before(e.until) {
		e.until = until
		e.kept.enter(&w.strangers, e)
	}
}

// again lines up one whose attempt has failed.
func (w *waiting) again(e *entry, now time.Time) {
	e.failed = min(e.failed+1, steps-1)
	w.line(e, now)
}

func (w *waiting) remove(e *entry) {
	e.kept.leave()
	e.turn.leave()
}

// take gives the one that is to be tried now, or how long there is none and none
// is overdue, which is at most longest. Who has failed least often comes first:
// what is new must not wait behind all that has been tried at a scheduler that
// hangs.
func (w *waiting) take(now time.Time, longest time.Duration) (*entry, time.Duration) {
	wait := longest
	for i := range w.turns {
		el := w.turns[i].Front()
		if el == nil {
			continue
		}
		e := el.Value.(*entry)
		d := e.next.Sub(now)
		if d <= 0 {
			e.turn.leave()
			return e, 0
		}
		wait = min(wait, d)
	}
	for _, l := range []*list.List{&w.strangers, &w.known} {
		if el := l.Front(); el != nil && el.Value.(*entry).turn.in != nil {
			wait = min(wait, el.Value.(*entry).until.Sub(now))
		}
	}
	return nil, wait
}

// leastWorth is what makes room for others. There is something.
func (w *waiting) leastWorth() *entry {
	for _, l := range []*list.List{&w.strangers, &w.known} {
		if el := l.Front(); el != nil {
			return el.Value.(*entry)
		}
	}
	return nil
}

// overdue are those that were kept long enough, but for those that are being
// tried, of whom it will be seen.
func (w *waiting) overdue(now time.Time) (over []*entry) {
	for _, l := range []*list.List{&w.strangers, &w.known} {
		for el := l.Front(); el != nil; el = el.Next() {
			e := el.Value.(*entry)
			if e.until.After(now) {
				break
			}
			if e.turn.in != nil {
				over = append(over, e)
			}
		}
	}
	return over
}

// all are the oldest first, those of strangers behind the others. Who is given
// one may remove it.
func (w *waiting) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, l := range []*list.List{&w.known, &w.strangers} {
			for el := l.Front(); el != nil; {
				next := el.Next()
				if !yield(el.Value.(*entry)) {
					return
				}
				el = next
			}
		}
	}
}
