package window

import "time"

// round is a measurement with one window. It has two parts:
//
//	settling --settleTime, and the transfers have been replaced--> measuring
//	measuring --measureTime, and the transfers have been replaced--> complete
//
// The transfers have been replaced when as many have ended as were in flight on
// average. A part does not wait for that longer than maxPartTime.
type round struct {
	start           time.Time
	measureStart    time.Time // zero while the round settles
	first           Sample    // the first one of the current part
	last            time.Time // time of the last sample
	lastInFlight    int       // transfers in flight in the last sample
	transferSeconds float64   // transfers in flight × seconds since first
	limited         bool      // a transfer was refused since start
}

// add adds a sample. When the round is complete, add returns the rate in bytes per
// second. If the clock or a counter goes backwards, the round starts again.
func (r *round) add(now time.Time, s Sample) (rate float64, complete bool) {
	if r.start.IsZero() || now.Before(r.last) || s.Sent < r.first.Sent || s.Ended < r.first.Ended {
		*r = round{start: now, first: s, last: now, lastInFlight: s.InFlight}
		return 0, false
	}
	r.transferSeconds += float64(r.lastInFlight) * now.Sub(r.last).Seconds()
	r.last, r.lastInFlight = now, s.InFlight
	r.limited = r.limited || s.Limited
	from := r.start
	minTime := settleTime
	if !r.measureStart.IsZero() {
		from, minTime = r.measureStart, measureTime
	}
	elapsed := now.Sub(from)
	replaced := float64(s.Ended-r.first.Ended) >= r.mean()
	if elapsed < minTime || !replaced && elapsed < maxPartTime {
		return 0, false
	}
	if r.measureStart.IsZero() {
		r.measureStart, r.first, r.transferSeconds = now, s, 0
		return 0, false
	}
	return float64(s.Sent-r.first.Sent) / elapsed.Seconds(), true
}

// mean returns the mean number of transfers in flight in the current part.
func (r *round) mean() float64 {
	from := r.start
	if !r.measureStart.IsZero() {
		from = r.measureStart
	}
	elapsed := r.last.Sub(from).Seconds()
	if elapsed <= 0 {
		return float64(r.lastInFlight)
	}
	return r.transferSeconds / elapsed
}

// full reports whether the demand filled the window.
func (r *round) full(window int) bool {
	return r.limited && r.mean() >= minUse*float64(window)
}
