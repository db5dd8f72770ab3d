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

	kept place // among all, while it waits
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
	// kept is all of them in the order of until, which is that of age.
	kept list.List
	// turns are those that are not being tried, by how many attempts have
	// failed, each in the order of next.
	turns [steps]list.List
}

func (w *waiting) len() int { return w.kept.Len() }

func (w *waiting) add(e *entry, now time.Time) {
	e.kept.enter(&w.kept, e)
	w.line(e, now)
}

func (w *waiting) line(e *entry, now time.Time) {
	e.next = now.Add(firstPause << e.failed)
	e.turn.enter(&w.turns[e.failed], e)
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
// is overdue, which is at most longest. Who has failed least often comes first: what is new must
// not wait behind all that has been tried at a scheduler that hangs.
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
	if el := w.kept.Front(); el != nil && el.Value.(*entry).turn.in != nil {
		wait = min(wait, el.Value.(*entry).until.Sub(now))
	}
	return nil, wait
}

// oldest is what makes room for another. There is one.
func (w *waiting) oldest() *entry { return w.kept.Front().Value.(*entry) }

// overdue are those that were kept long enough, but for those that are being
// tried, of whom it will be seen.
func (w *waiting) overdue(now time.Time) (over []*entry) {
	for el := w.kept.Front(); el != nil; el = el.Next() {
		e := el.Value.(*entry)
		if e.until.After(now) {
			break
		}
		if e.turn.in != nil {
			over = append(over, e)
		}
	}
	return over
}

// all are the oldest first. Who is given one may remove it.
func (w *waiting) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for el := w.kept.Front(); el != nil; {
			next := el.Next()
			if !yield(el.Value.(*entry)) {
				return
			}
			el = next
		}
	}
}
