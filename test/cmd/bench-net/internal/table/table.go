// Package table writes the results of runs as a table in Markdown.
package table

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-net/internal/run"
)

var columns = []string{ //nolint:gochecknoglobals // a constant list
	"hosts × rate, server, file", "client", "bound", "last/bound", "p50/bound", "first to last piece/bound",
	"copies from the CDN", "source/file", "calls/s", "supernode CPU", "failed pieces", "without upload server", "wrong",
}

// Head writes the head of the table.
func Head(out io.Writer) error {
	_, err := fmt.Fprintf(out, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	return err
}

// Row writes a run. The scenario and the client are named as given.
func Row(out io.Writer, scenario, client string, r run.Result) error {
	over := func(d time.Duration) string {
		if d == 0 {
			return "–"
		}
		return fmt.Sprintf("%.2f", d.Seconds()/r.Bound.Time.Seconds())
	}
	calls := "–"
	if r.Elapsed > 0 {
		calls = fmt.Sprintf("%.0f", r.Calls/r.Elapsed.Seconds())
	}
	_, err := fmt.Fprintf(out, "| %s | %s | %.2f s %s | %s | %s | %s | %.2f | %.2f | %s | %.1f s | %d | %d | %d |\n",
		scenario, client, r.Bound.Time.Seconds(), r.Bound.Term, over(r.Last), over(r.Median), over(r.Pieces),
		r.Copies, r.Source, calls, r.Processor.Seconds(), r.FailedPieces, r.NoUploads, r.Wrong)
	return err
}
