package table

import (
	"fmt"
	"io"
	"time"

	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/run"
	"github.com/supernode-ha/supernode/test/cmd/bench-swarm/internal/scenario"
)

// ComparedHead writes the head of the table of runs that are compared.
func ComparedHead(out io.Writer) error {
	return head(out, append(columns(), "last healthy peer (over healthy run)"))
}

// ComparedRow writes a run as a row of it. last is the time of the last healthy
// peer, healthy that in the run without faults, or 0 for that run itself.
func ComparedRow(out io.Writer, sc scenario.Scenario, supernode string, r run.Result, last, healthy time.Duration) error {
	cell := fmt.Sprintf("%.2f s", last.Seconds())
	if last == 0 {
		cell = none
	}
	if last > 0 && healthy > 0 {
		cell += fmt.Sprintf(" (%.2f)", last.Seconds()/healthy.Seconds())
	}
	return write(out, append(row(sc, supernode, r), cell))
}
