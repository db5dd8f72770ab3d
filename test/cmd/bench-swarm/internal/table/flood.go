package table

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/flood"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/record"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
)

// FloodHead writes the head of the table of floods.
func FloodHead(out io.Writer) error {
	return head(out, []string{
		"flood", "peers, tasks, pieces", "supernode", "sent", "answers", "answered in (p50/p99/max ms)", "requests at the source",
		"flood lasted", "time", "time over none", "pull 601 p99 ms", "pull 601 over none", "report p99 ms", "report over none", "failed",
		"CPU", "RSS MB before/peak/peak/after", "goroutines before/after", "tasks after", "generator CPU",
	})
}

// FloodRow writes a flood as a row of it. undisturbed is the result without a
// flood, nil if there is none.
func FloodRow(out io.Writer, sc scenario.Scenario, supernode string, r run.FloodResult, undisturbed *run.FloodResult) error {
	sc.Pieces = r.Pieces
	known := r.Before.Known && r.After.Known
	failed := 0
	for _, p := range r.Passes {
		failed += p.Failed
	}
	source, lasted := none, none
	if r.Kind == flood.URLs {
		source = fmt.Sprint(r.SourceRequests)
	}
	if r.Kind != flood.None {
		lasted = each(r, "%.2f s", func(p run.Pass) float64 { return p.Flood.Seconds() })
	}
	cpu := none
	if known {
		cpu = each(r, "%.2f s", func(p run.Pass) float64 { return p.Processor.Seconds() })
	}
	return write(out, []string{
		string(r.Kind), sc.String(), supernode, fmt.Sprint(r.Sent), outcomes(r.Outcomes), latency(r.Latency), source, lasted,
		each(r, "%.2f s", elapsed), over(r, undisturbed, elapsed),
		each(r, "%.1f", pulls), over(r, undisturbed, pulls), each(r, "%.1f", reports), over(r, undisturbed, reports),
		fmt.Sprint(failed), cpu, residents(r, known), goroutines(r), when(r.After.Tasks >= 0, "%.0f", r.After.Tasks),
		each(r, "%.2f s", func(p run.Pass) float64 { return p.Generator.Seconds() }),
	})
}

// What is compared of a pass.
func elapsed(p run.Pass) float64 { return p.Elapsed.Seconds() }
func pulls(p run.Pass) float64   { return p99(p, record.Pieces) }
func reports(p run.Pass) float64 { return p99(p, record.Report) }

func p99(p run.Pass, kind record.Kind) float64 {
	return float64(p.Latency[kind].Quantile(0.99)) / float64(time.Millisecond)
}

// each lists a value of each pass.
func each(r run.FloodResult, format string, value func(run.Pass) float64) string {
	var list []string
	for _, p := range r.Passes {
		list = append(list, fmt.Sprintf(format, value(p)))
	}
	return strings.Join(list, ", ")
}

// over lists a value of each pass over the mean of the passes without a flood.
func over(r run.FloodResult, undisturbed *run.FloodResult, value func(run.Pass) float64) string {
	if undisturbed == nil {
		return none
	}
	mean := 0.0
	for _, p := range undisturbed.Passes {
		mean += value(p) / float64(len(undisturbed.Passes))
	}
	if mean == 0 {
		return none
	}
	return each(r, "%.2f", func(p run.Pass) float64 { return value(p) / mean })
}

func residents(r run.FloodResult, known bool) string {
	if !known {
		return none
	}
	list := []int64{r.Before.Resident}
	for _, p := range r.Passes {
		list = append(list, p.Peak)
	}
	var cells []string
	for _, bytes := range append(list, r.After.Resident) {
		cells = append(cells, fmt.Sprintf("%.0f", float64(bytes)/(1<<20)))
	}
	return strings.Join(cells, "/")
}

func goroutines(r run.FloodResult) string {
	if !r.Before.Measured || !r.After.Measured {
		return none
	}
	return fmt.Sprintf("%.0f/%.0f", r.Before.Goroutines, r.After.Goroutines)
}

// outcomes lists how many requests had each outcome.
func outcomes(counts map[string]int64) string {
	if len(counts) == 0 {
		return none
	}
	var list []string
	for _, outcome := range slices.Sorted(maps.Keys(counts)) {
		list = append(list, fmt.Sprintf("%s: %d", outcome, counts[outcome]))
	}
	return strings.Join(list, ", ")
}
