package faults

import (
	"encoding/json"
	"testing"
	"time"
)

// outcome is what a trial came to, as it is logged. Times are in seconds from
// the fault.
type outcome struct {
	Fault  string `json:"fault"`
	Passed bool   `json:"passed"`
	// At is the percentage of the file that the source had sent at the fault.
	At    int     `json:"at"`
	Peers int     `json:"peers"`
	Right int     `json:"right"`
	MB    float64 `json:"mb"`
	// Source is the bytes that the source sent over the size of the file, Bound
	// the most that is allowed.
	Source float64 `json:"source"`
	Bound  float64 `json:"bound"`
	// First, Half and Last are until the next piece came to anybody, half of
	// the peers, all of them; Gap is the longest time without a piece.
	First float64 `json:"first_s"`
	Half  float64 `json:"half_s"`
	Last  float64 `json:"last_s"`
	Gap   float64 `json:"gap_s"`
	// End is until the last peer had the file, Settled until the record was
	// right and two copies whole.
	End     float64 `json:"end_s"`
	Settled float64 `json:"settled_s"`
	// Epochs is by how much the epoch grew, Copies how many there are.
	Epochs       int64 `json:"epochs"`
	Copies       int   `json:"copies"`
	FailedPieces int   `json:"failed_pieces"`
	Migrations   int   `json:"migrations"`
}

// log writes the outcome, of a test that has failed, or was excused, too.
func (o outcome) log(t testing.TB) {
	t.Helper()
	o.Passed = !t.Failed() && !t.Skipped()
	line, err := json.Marshal(o)
	if err != nil {
		t.Errorf("writing the outcome: %v", err)
	}
	t.Logf("outcome %s", line)
}

func seconds(d time.Duration) float64 {
	return float64(d.Round(time.Millisecond)) / float64(time.Second)
}

func ratio(part, whole int64) float64 { return float64(part*1000/whole) / 1000 }
