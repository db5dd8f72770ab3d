package reportqueue

import (
	"container/list"
	"iter"
	"time"
)

const (
	// The first retry is after firstPause. Each further pause is twice as long, up
	// to lastPause, which is the pause of the last step.
	firstPause   = 250 * time.Millisecond
	backoffSteps = 5
	lastPause    = firstPause << (backoffSteps - 1)
)

// entry is a queued report. Its positions in the lists of pending are its state:
//
//	waiting    expiry and retry are set
//	in flight  only expiry is set
//	removed    none is set
type entry struct {
	Report
	expires   time.Time
	notBefore time.Time // the time of the next attempt
	step      int       // the back-off step, which ends at backoffSteps-1

	expiry position // in normal or unknown
	retry  position // in one of retries
}

// isPending reports whether the report is waiting or in flight.
func (e *entry) isPending() bool { return e.expiry.list != nil }

// position is the place of an entry in a list. The zero value is in no list.
type position struct {
	list    *list.List
	element *list.Element
}

// moveTo removes e from its list, if any, and appends it to l.
func (p *position) moveTo(l *list.List, e *entry) {
	p.unlink()
	*p = position{list: l, element: l.PushBack(e)}
}

// unlink removes the entry from its list, if any.
func (p *position) unlink() {
	if p.list != nil {
		p.list.Remove(p.element)
	}
	*p = position{}
}

// pending holds the queued reports. It keeps a list for each order in which
// reports are taken out, so that every operation finds its report at the front of
// a list. The zero value is empty. It is not safe for concurrent use.
type pending struct {
	// unknown holds the reports of peers that a scheduler did not have, and normal
	// all others. Both are in the order of expires, which is the order of age.
	normal, unknown list.List
	// retries holds the waiting reports by back-off step, each in the order of
	// notBefore.
	retries [backoffSteps]list.List
}

func (p *pending) len() int { return p.normal.Len() + p.unknown.Len() }

// add adds a new report, which is first sent after firstPause.
func (p *pending) add(e *entry, now time.Time) {
	e.expiry.moveTo(&p.normal, e)
	p.schedule(e, now)
}

// schedule makes e waiting until the pause of its step has passed.
func (p *pending) schedule(e *entry, now time.Time) {
	e.notBefore = now.Add(firstPause << e.step)
	e.retry.moveTo(&p.retries[e.step], e)
}

// markUnknown records that a scheduler did not have the peer of e. The report then
// expires at until at the latest.
func (p *pending) markUnknown(e *entry, until time.Time) {
	if e.expiry.list == &p.normal && until.Before(e.expires) {
		e.expires = until
		e.expiry.moveTo(&p.unknown, e)
	}
}

// reschedule makes e waiting again after a failed attempt.
func (p *pending) reschedule(e *entry, now time.Time) {
	e.step = min(e.step+1, backoffSteps-1)
	p.schedule(e, now)
}

// remove removes e from all lists.
func (p *pending) remove(e *entry) {
	e.expiry.unlink()
	e.retry.unlink()
}

// take returns the report that is due and makes it in flight. If none is due,
// take returns the time until one may be due or expires, at most longest. The
// report with the fewest failed attempts comes first, so that a new report does
// not wait behind those for a scheduler that hangs.
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

// victim returns the report to drop when the queue is full: the oldest of an
// unknown peer, or else the oldest. pending must not be empty.
func (p *pending) victim() *entry {
	for _, l := range []*list.List{&p.unknown, &p.normal} {
		if el := l.Front(); el != nil {
			return el.Value.(*entry)
		}
	}
	return nil
}

// expired returns the waiting reports that have expired. Reports in flight are
// left out, because the result of their attempt is not known yet.
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

// all iterates over the reports, the oldest first, and those of unknown peers
// last. The loop body may remove the report it was given.
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
