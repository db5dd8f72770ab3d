package reportqueue

import (
	"container/list"
	"iter"
	"time"
)

const (
	// A report is tried again after firstPause, then after twice as long each
	// time, up to the pause of the last step.
	firstPause   = 250 * time.Millisecond
	backoffSteps = 5
	lastPause    = firstPause << (backoffSteps - 1)
)

// entry is a report that waits.
type entry struct {
	Report
	expires   time.Time // it is kept
	notBefore time.Time // it is not tried before that
	step      int       // attempts, as far as they make a difference

	expiry position // among those that are kept as long, while it waits
	retry  position // among those that are tried again, unless it is being tried
}

func (e *entry) isPending() bool { return e.expiry.list != nil }

// position is one of an entry in a list.
type position struct {
	list    *list.List
	element *list.Element
}

func (p *position) moveTo(l *list.List, e *entry) {
	p.unlink()
	*p = position{list: l, element: l.PushBack(e)}
}

func (p *position) unlink() {
	if p.list != nil {
		p.list.Remove(p.element)
	}
	*p = position{}
}

// pending is the reports that wait, in all the orders in which they go, so that
// none has to be searched for. It is empty at first and not safe for concurrent
// use.
type pending struct {
	// Reports and those of them that are a stranger's, each in the order of
	// expires, which is that of age.
	normal, unknown list.List
	// retries are those that are not being tried, by how many attempts have
	// failed, each in the order of notBefore.
	retries [backoffSteps]list.List
}

func (p *pending) len() int { return p.normal.Len() + p.unknown.Len() }

func (p *pending) add(e *entry, now time.Time) {
	e.expiry.moveTo(&p.normal, e)
	p.schedule(e, now)
}

func (p *pending) schedule(e *entry, now time.Time) {
	e.notBefore = now.Add(firstPause << e.step)
	e.retry.moveTo(&p.retries[e.step], e)
}

// markUnknown makes it the report of a stranger, which is kept no longer than until.
func (p *pending) markUnknown(e *entry, until time.Time) {
	if e.expiry.list == &p.normal && until.Before(e.expires) {
		e.expires = until
		e.expiry.moveTo(&p.unknown, e)
	}
}

// reschedule lines up one whose attempt has failed.
func (p *pending) reschedule(e *entry, now time.Time) {
	e.step = min(e.step+1, backoffSteps-1)
	p.schedule(e, now)
}

func (p *pending) remove(e *entry) {
	e.expiry.unlink()
	e.retry.unlink()
}

// take gives the one that is to be tried now, or how long there is none and none
// is overdue, which is at most longest. Who has failed least often comes first:
// what is new must not wait behind all that has been tried at a scheduler that
// hangs.
func (p *pending) take(now time.Time, longest time.Duration) (*entry, time.Duration) {
	wait := longest
	for i := range p.retries {
		el := p.retries[i].Front()
		if el == nil {
			continue
		}
		e := el.Value.(*entry)
		d := e.notBefore.Sub(now)
		if d <= 0 {
			e.retry.unlink()
			return e, 0
		}
		wait = min(wait, d)
	}
	for _, l := range []*list.List{&p.unknown, &p.normal} {
		if el := l.Front(); el != nil && el.Value.(*entry).retry.list != nil {
			wait = min(wait, el.Value.(*entry).expires.Sub(now))
		}
	}
	return nil, wait
}

// victim is what makes room for others. There is something.
func (p *pending) victim() *entry {
	for _, l := range []*list.List{&p.unknown, &p.normal} {
		if el := l.Front(); el != nil {
			return el.Value.(*entry)
		}
	}
	return nil
}

// expired are those that were kept long enough, but for those that are being
// tried, of whom it will be seen.
func (p *pending) expired(now time.Time) (over []*entry) {
	for _, l := range []*list.List{&p.unknown, &p.normal} {
		for el := l.Front(); el != nil; el = el.Next() {
			e := el.Value.(*entry)
			if e.expires.After(now) {
				break
			}
			if e.retry.list != nil {
				over = append(over, e)
			}
		}
	}
	return over
}

// all are the oldest first, those of strangers behind the others. Who is given
// one may remove it.
func (p *pending) all() iter.Seq[*entry] {
	return func(yield func(*entry) bool) {
		for _, l := range []*list.List{&p.normal, &p.unknown} {
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
