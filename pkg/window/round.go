package window

import "time"

// round is one measurement with one window.
type round struct {
	began, measured time.Time // measured is zero while the round settles
	first           Sample    // when began or, later, when measured
	last            time.Time
	inFlight        float64 // transfers × seconds since first
	previous        int     // transfers in flight at last
	limited         bool    // demand was refused since began
}

// add takes a sample. It returns the rate in bytes per second, and whether the
// round is over.
func (r *round) add(now time.Time, s Sample) (rate float64, over bool) {
	if r.began.IsZero() || now.Before(r.last) || s.Sent < r.first.Sent || s.Ended < r.first.Ended {
		*r = round{began: now, first: s, last: now, previous: s.InFlight}
		return 0, false
	}
	r.inFlight += float64(r.previous) * now.Sub(r.last).Seconds()
	r.last, r.previous = now, s.InFlight
	r.limited = r.limited || s.Limited
	from := r.began
	least := settleTime
	if !r.measured.IsZero() {
		from, least = r.measured, measureTime
	}
	elapsed := now.Sub(from)
	turnover := float64(s.Ended-r.first.Ended) >= r.mean()
	if elapsed < least || !turnover && elapsed < longest {
		return 0, false
	}
	if r.measured.IsZero() {
		r.measured, r.first, r.inFlight = now, s, 0
		return 0, false
	}
	return float64(s.Sent-r.first.Sent) / elapsed.Seconds(), true
}

// mean returns the mean number of transfers in flight in this part of the round.
func (r *round) mean() float64 {
	from := r.began
	if !r.measured.IsZero() {
		from = r.measured
	}
	elapsed := r.last.Sub(from).Seconds()
	if elapsed <= 0 {
		return float64(r.previous)
	}
	return r.inFlight / elapsed
}

// full tells whether demand filled the window.
func (r *round) full(window int) bool {
	return r.limited && r.mean() >= filled*float64(window)
}
