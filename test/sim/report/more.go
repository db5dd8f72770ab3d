package report

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// queues is a row for each scenario and queue, with its phases.
func queues(rows []Row) string {
	var b strings.Builder
	b.WriteString("| scenario | queue | last / bound | copies | ramp | plateau | end game | downlinks idle |\n|---|---|---|---|---|---|---|---|\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "| `%s` | %g ms | %.2f | %s | %.1f s | %.0f %% | %.1f s | %.0f %% |\n",
			r.Scenario, r.Queue, r.Last, number(r.Copies), r.Ramp, 100*r.Plateau, r.End, 100*r.Idle)
	}
	return b.String()
}

// Measured is what was measured of a scenario on real links.
type Measured struct {
	Scenario string `json:"scenario"`
	// Parameters are those of make bench-net.
	Parameters string `json:"parameters"`
	// Last is over the bound; the measurement is missing while it is 0.
	Last   float64 `json:"last"`
	Copies float64 `json:"copies"`
}

// LoadMeasured reads what was measured, by scenario.
func LoadMeasured(path string) (map[string]Measured, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading measurements: %w", err)
	}
	var list []Measured
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("reading measurements from %s: %w", path, err)
	}
	byScenario := make(map[string]Measured, len(list))
	for _, m := range list {
		byScenario[m.Scenario] = m
	}
	return byScenario, nil
}

// benched is a row for each scenario that is measured, too.
func benched(rows []Row, measured map[string]Measured) string {
	var b strings.Builder
	b.WriteString("| scenario | `make bench-net` | measured: last / bound, copies | simulated: last / bound, copies | difference |\n|---|---|---|---|---|\n")
	for _, r := range rows {
		m := measured[r.Scenario]
		links, difference := "", ""
		if m.Last > 0 {
			links = fmt.Sprintf("%.2f, %s", m.Last, number(m.Copies))
			difference = fmt.Sprintf("%+.0f %%", 100*(r.Last/m.Last-1))
		}
		fmt.Fprintf(&b, "| `%s` | `%s` | %s | %.2f, %s | %s |\n", r.Scenario, m.Parameters, links, r.Last, number(r.Copies), difference)
	}
	return b.String()
}
