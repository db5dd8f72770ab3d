package sim

import "time"

// Phases divides a run by the rate at which pieces arrive at all peers. The
// plateau is the mean rate while the middle of all pieces arrive.
type Phases struct {
	// Ramp is the time until the rate is 90 % of the plateau, End that from when it
	// is so for the last time to the last piece.
	Ramp, End time.Duration
	// Plateau is in pieces a second.
	Plateau float64
}

const (
	// The middle of the pieces, as shares of all.
	middleFrom, middleTo = 0.4, 0.8
	// smooth is the number of bins in which a rate is counted.
	smooth = 5
	// onPlateau is the share of the plateau's rate that belongs to it.
	onPlateau = 0.9
)

// Phases returns the phases of a run.
func (r *Result) Phases() Phases {
	total := 0
	for _, n := range r.Pieces {
		total += n
	}
	var p Phases
	sum, from, to, middle := 0, -1, -1, 0
	for i, n := range r.Pieces {
		sum += n
		switch {
		case float64(sum) < middleFrom*float64(total):
		case from < 0:
			from = i
		case to < 0:
			middle += n
			if float64(sum) >= middleTo*float64(total) {
				to = i
			}
		}
	}
	if to < 0 {
		return p
	}
	p.Plateau = float64(middle) / (time.Duration(to-from) * r.Bin).Seconds()
	least := onPlateau * p.Plateau * (smooth * r.Bin).Seconds()
	for i := range max(len(r.Pieces)-smooth+1, 0) {
		n := 0
		for _, more := range r.Pieces[i : i+smooth] {
			n += more
		}
		if float64(n) < least {
			continue
		}
		if p.Ramp == 0 {
			p.Ramp = time.Duration(2*i+smooth) * r.Bin / 2
		}
		p.End = r.LastPiece - time.Duration(2*i+smooth)*r.Bin/2
	}
	return p
}
