// Package report sums up runs of the simulator, as markdown and as plots.
package report

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/supernode-ha/supernode/services/scheduler/sim"
	"github.com/supernode-ha/supernode/services/scheduler/sim/scenario"
)

// Row is what one policy gave in one scenario: the medians of some seeds, and
// the curves of the first.
type Row struct {
	Scenario string  `json:"scenario"`
	Title    string  `json:"title"`
	Policy   string  `json:"policy"`
	Seeds    int     `json:"seeds"`
	Bound    float64 `json:"bound"` // seconds
	PieceKiB int32   `json:"piece_kib"`

	// Last, Median and Span are times over the bound; Span is that from the first
	// landing to the last piece.
	Last   float64 `json:"last"`
	Median float64 `json:"median"`
	Span   float64 `json:"span"`
	Copies float64 `json:"copies"`
	// Calls is the calls a second.
	Calls float64 `json:"calls"`
	// Left is the most peers that had not finished when a run was ended.
	Left int `json:"left,omitempty"`
	// Pieces and Holders are what was looked at for a choice.
	Pieces  float64 `json:"pieces,omitempty"`
	Holders float64 `json:"holders,omitempty"`

	// Queue is the mean wait in a full link's queue in milliseconds. Ramp and End
	// are how many seconds the phases of the first run took, Plateau is its share of
	// the links, Idle the share of the time in which no bytes came to a peer.
	Queue   float64 `json:"queue,omitempty"`
	Ramp    float64 `json:"ramp,omitempty"`
	End     float64 `json:"end,omitempty"`
	Plateau float64 `json:"plateau,omitempty"`
	Idle    float64 `json:"idle,omitempty"`

	// Done are the times over the bound within which each hundredth of the peers
	// finished; Rate is the MB a second that arrived in each Bin of seconds.
	Done []float64 `json:"done,omitempty"`
	Rate []float64 `json:"rate,omitempty"`
	Bin  float64   `json:"bin,omitempty"`
}

// Sum makes a row of the runs of one policy in one scenario. Curves are kept of
// scenarios that are drawn.
func Sum(s scenario.Scenario, results []*sim.Result) Row {
	first := results[0]
	row := Row{
		Scenario: s.Name, Title: s.Title, Policy: first.Policy, Seeds: len(results), Bound: round(s.Bound().Seconds()),
		PieceKiB: first.PieceSize >> 10,
		Last:     median(results, func(r *sim.Result) float64 { return r.Ratio(r.Last()) }),
		Median:   median(results, func(r *sim.Result) float64 { return r.Ratio(r.Quantile(0.5)) }),
		Span:     median(results, func(r *sim.Result) float64 { return r.Ratio(r.Span()) }),
		Copies:   median(results, func(r *sim.Result) float64 { return r.Copies }),
		Calls:    median(results, func(r *sim.Result) float64 { return float64(r.Calls) / r.LastPiece.Seconds() }),
	}
	p := first.Phases()
	row.Ramp, row.End, row.Idle = round(p.Ramp.Seconds()), round(p.End.Seconds()), round(first.Idle)
	row.Plateau = round(p.Plateau * float64(first.PieceSize) / s.Capacity())
	for _, r := range results {
		row.Left = max(row.Left, r.Left)
	}
	if l := first.Looked; l.Choices > 0 {
		row.Pieces, row.Holders = round(float64(l.Pieces)/float64(l.Choices)), round(float64(l.Holders)/float64(l.Choices))
	}
	if slices.Contains(drawn(), s.Name) {
		row.curves(first)
	}
	return row
}

const (
	hundredths = 100
	mostBins   = 60
)

func (row *Row) curves(r *sim.Result) {
	for i := range hundredths + 1 {
		row.Done = append(row.Done, round(r.Ratio(r.Quantile(float64(i)/hundredths))))
	}
	gather := len(r.Pieces)/mostBins + 1
	width := r.Bin * time.Duration(gather)
	row.Bin = width.Seconds()
	for bins := range slices.Chunk(r.Pieces, gather) {
		sum := 0
		for _, n := range bins {
			sum += n
		}
		row.Rate = append(row.Rate, round(float64(sum)*float64(r.PieceSize)/scenario.MB/row.Bin))
	}
}

func round(x float64) float64 { return float64(int64(x*1000+0.5)) / 1000 }

func median(results []*sim.Result, of func(*sim.Result) float64) float64 {
	values := make([]float64, len(results))
	for i, r := range results {
		values[i] = of(r)
	}
	slices.SortFunc(values, cmp.Compare)
	return round(values[len(values)/2])
}

// Load reads rows that were saved.
func Load(path string) ([]Row, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading rows: %w", err)
	}
	var rows []Row
	if err := json.Unmarshal(data, &rows); err != nil {
		return nil, fmt.Errorf("reading rows from %s: %w", path, err)
	}
	return rows, nil
}

// Save writes rows, each on a line.
func Save(path string, rows []Row) error {
	data := []byte("[\n")
	for i, row := range rows {
		line, err := json.Marshal(row)
		if err != nil {
			return fmt.Errorf("saving rows: %w", err)
		}
		if i > 0 {
			data = append(data, ",\n"...)
		}
		data = append(data, line...)
	}
	data = append(data, "\n]\n"...)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("saving rows: %w", err)
	}
	return nil
}
