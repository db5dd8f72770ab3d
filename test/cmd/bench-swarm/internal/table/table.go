// Package table writes what was measured as tables in Markdown.
package table

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/histogram"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/soak"
)

const none = "–"

// Row writes a run as a row of the table of runs.
func Row(out io.Writer, sc scenario.Scenario, supernode string, r run.Result) error {
	return write(out, row(sc, supernode, r))
}

func row(sc scenario.Scenario, supernode string, r run.Result) []string {
	sc.Pieces = r.Pieces
	peers, calls := float64(sc.Peers), float64(r.Calls)
	known, measured := r.Before.Known && r.After.Known, r.Before.Measured && r.After.Measured
	if calls == 0 {
		known, measured = false, false
	}
	processor := r.After.Processor - r.Before.Processor
	share := none
	if known && processor > 0 {
		share = fmt.Sprintf("%.0f %%", 100*r.Generator.Seconds()/(r.Generator+processor).Seconds())
	}
	return []string{
		sc.String(), supernode, fmt.Sprintf("%.2f s", r.Elapsed.Seconds()),
		fmt.Sprint(r.Calls), fmt.Sprintf("%.0f", calls/max(r.Elapsed.Seconds(), 1e-3)),
		latency(r.Latency[record.Register]), latency(r.Latency[record.Pieces]), latency(r.Latency[record.Finished]),
		latency(r.Latency[record.Wait]), latency(r.Latency[record.Report]), latency(r.Latency[record.Other]),
		answers(r.Answers), fmt.Sprint(r.OfferedByCDN), fmt.Sprintf("%.2f", r.Copies), fmt.Sprint(r.FailedPieces),
		fmt.Sprint(r.Refused), fmt.Sprint(r.Crashed), fmt.Sprint(r.Failed),
		when(known, "%.2f s", processor.Seconds()), when(known, "%.3f", 1000*processor.Seconds()/calls),
		when(known, "%.0f", float64(r.After.Peak)/(1<<20)), when(known, "%.1f", float64(r.After.Resident-r.Before.Resident)/(1<<10)/peers),
		when(measured, "%.0f", (r.After.Mallocs-r.Before.Mallocs)/calls), when(measured, "%.1f", (r.After.Allocated-r.Before.Allocated)/(1<<10)/calls),
		when(measured, "%.0f", (r.After.Mallocs-r.Before.Mallocs)/peers), when(measured, "%.0f", r.After.HeapInUse/(1<<20)),
		fmt.Sprintf("%.2f s", r.Generator.Seconds()), share,
	}
}

// Head writes the head of the table of runs.
func Head(out io.Writer) error { return head(out, columns()) }

func columns() []string {
	return []string{
		"peers, tasks, pieces", "supernode", "time", "calls", "calls/s",
		"register", "pull 601", "pull 600", "pull 602", "report", "other (p50/p99/max ms)",
		"answers to pulls", "offered by the CDN", "copies from the CDN", "failed pieces", "refused calls", "crashed", "failed",
		"CPU", "ms/call", "peak RSS MB", "RSS KB/peer", "allocs/call", "KB/call", "allocs/peer", "heap in use MB",
		"generator CPU", "of all CPU",
	}
}

// SoakHead writes the head of the table of a soak.
func SoakHead(out io.Writer) error {
	return head(out, []string{
		"after", "peers", "arrived", "finished", "crashed", "failed", "tasks", "calls/s", "CPU ms/call",
		"RSS MB", "heap MB", "goroutines", "register", "pull 601", "pull 602", "report (p50/p99/max ms)", "generator CPU",
	})
}

// SoakRow writes what happened since the previous row of a soak.
func SoakRow(out io.Writer, r soak.Report) error {
	known := r.Usage.Known
	return write(out, []string{
		r.After.Round(time.Second).String(), fmt.Sprint(r.Peers), fmt.Sprint(r.Arrived), fmt.Sprint(r.Finished),
		fmt.Sprint(r.Crashed), fmt.Sprint(r.Failed), fmt.Sprint(r.Tasks), fmt.Sprintf("%.0f", float64(r.Calls)/r.Interval.Seconds()),
		when(known && r.Calls > 0, "%.3f", 1000*r.Processor.Seconds()/float64(max(r.Calls, 1))),
		when(known, "%.0f", float64(r.Usage.Resident)/(1<<20)),
		when(r.Usage.Measured, "%.0f", r.Usage.HeapInUse/(1<<20)), when(r.Usage.Measured, "%.0f", r.Usage.Goroutines),
		latency(r.Latency[record.Register]), latency(r.Latency[record.Pieces]), latency(r.Latency[record.Wait]),
		latency(r.Latency[record.Report]), fmt.Sprintf("%.2f s", r.Generator.Seconds()),
	})
}

func head(out io.Writer, columns []string) error {
	_, err := fmt.Fprintf(out, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	return err
}

func write(out io.Writer, cells []string) error {
	_, err := fmt.Fprintf(out, "| %s |\n", strings.Join(cells, " | "))
	return err
}

func when(known bool, format string, value float64) string {
	if !known {
		return none
	}
	return fmt.Sprintf(format, value)
}

// latency is p50, p99 and maximum in milliseconds.
func latency(s histogram.Snapshot) string {
	if s.Count == 0 {
		return none
	}
	ms := func(d time.Duration) string {
		value := float64(d) / float64(time.Millisecond)
		if value < 10 {
			return fmt.Sprintf("%.2f", value)
		}
		return fmt.Sprintf("%.0f", value)
	}
	return ms(s.Quantile(0.5)) + "/" + ms(s.Quantile(0.99)) + "/" + ms(s.Longest)
}

// answers lists how many pulls were answered with each code.
func answers(counts map[int]int64) string {
	var list []string
	for _, code := range slices.Sorted(maps.Keys(counts)) {
		name := fmt.Sprint(code)
		if code == record.NoAnswer {
			name = "none"
		}
		list = append(list, fmt.Sprintf("%s: %d", name, counts[code]))
	}
	return strings.Join(list, ", ")
}
