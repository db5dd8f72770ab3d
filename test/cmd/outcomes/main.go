// Command outcomes makes a table of the outcomes in the log of fault tests,
// which it reads from standard input.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
)

// mark is what stands before an outcome.
const mark = "outcome {"

// outcome is what the table shows of one.
type outcome struct {
	Fault   string
	At      int
	Passed  bool
	Peers   int
	Right   int
	Source  float64
	First   float64 `json:"first_s"`
	Half    float64 `json:"half_s"`
	Last    float64 `json:"last_s"`
	Gap     float64 `json:"gap_s"`
	End     float64 `json:"end_s"`
	Settled float64 `json:"settled_s"`
	Epochs  int64
	Copies  int
	Failed  int `json:"failed_pieces"`
	Moved   int `json:"migrations"`
}

func main() {
	if err := table(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func table(in io.Reader, out io.Writer) error {
	lines := []string{
		"| what happens | at % | right | source | next piece: first, half, last (s) | longest gap (s) | end (s) | settled (s) | epochs | copies | failed pieces | migrations |",
		"|---|---|---|---|---|---|---|---|---|---|---|---|",
	}
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 1<<24)
	for scanner.Scan() {
		_, text, found := strings.Cut(scanner.Text(), mark)
		if !found {
			continue
		}
		var o outcome
		if err := json.Unmarshal([]byte("{"+text), &o); err != nil {
			return fmt.Errorf("reading an outcome: %w", err)
		}
		name := o.Fault
		if !o.Passed {
			name += " (**failed**)"
		}
		lines = append(lines, fmt.Sprintf("| %s | %d | %d of %d | %.2fx | %.1f, %.1f, %.1f | %.1f | %.1f | %.1f | %d | %d | %d | %d |",
			name, o.At, o.Right, o.Peers, o.Source, o.First, o.Half, o.Last, o.Gap, o.End, o.Settled, o.Epochs, o.Copies, o.Failed, o.Moved))
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("reading the log: %w", err)
	}
	_, err := io.WriteString(out, strings.Join(lines, "\n")+"\n")
	return err
}
