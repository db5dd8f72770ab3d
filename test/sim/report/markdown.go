package report

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// ErrNoMark is returned for a document without the marks of a table.
var ErrNoMark = errors.New("no mark of where the table belongs")

// Document is what the tables show.
type Document struct {
	// Rows are those of the large table.
	Rows []Row
	// Queues are runs of one policy with different queues.
	Queues []Row
	// Benched are runs of scenarios that are measured on real links, with headers,
	// Measured what was measured of them, by scenario.
	Benched  []Row
	Measured map[string]Measured
}

// Write puts the tables between their marks in a markdown file.
func Write(path string, d Document) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading the document: %w", err)
	}
	tables := map[string]string{
		"results": results(d.Rows), "work": work(d.Rows), "queues": queues(d.Queues), "bench": benched(d.Benched, d.Measured),
	}
	for name, table := range tables {
		if text, err = replace(text, name, table); err != nil {
			return fmt.Errorf("writing to %s: %w", path, err)
		}
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("writing the document: %w", err)
	}
	return nil
}

func replace(text []byte, name, table string) ([]byte, error) {
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	before, rest, found := bytes.Cut(text, []byte(begin))
	_, after, closed := bytes.Cut(rest, []byte(end))
	if !found || !closed {
		return nil, fmt.Errorf("%s: %w", name, ErrNoMark)
	}
	return slices.Concat(before, []byte(begin), []byte(table), []byte(end), after), nil
}

// order lists the values of a column in the order in which they come.
func order(rows []Row, of func(Row) string) []string {
	var list []string
	for _, r := range rows {
		if v := of(r); !slices.Contains(list, v) {
			list = append(list, v)
		}
	}
	return list
}

func policies(rows []Row) []string {
	return order(rows, func(r Row) string { return r.Policy })
}

// heading is what a policy is called in tables and plots.
func heading(policy string) string {
	if policy == "swarm" {
		return "policy"
	}
	return policy
}

func find(rows []Row, scenario, policy string) *Row {
	i := slices.IndexFunc(rows, func(r Row) bool { return r.Scenario == scenario && r.Policy == policy })
	if i < 0 {
		return nil
	}
	return &rows[i]
}

// results is a row a scenario, with a cell for each policy.
func results(rows []Row) string {
	return table(rows, "| `%s` %s | %s s |", "scenario | bound", func(r *Row) string {
		if r.Left > 0 {
			return fmt.Sprintf("%d peers never finish", r.Left)
		}
		return fmt.Sprintf("**%.2f** · %.2f · %.2f · %s · %.0f", r.Last, r.Median, r.Span, number(r.Copies), r.Calls)
	})
}

// work is what choices cost, of the policies that count it.
func work(rows []Row) string {
	rows = slices.DeleteFunc(slices.Clone(rows), func(r Row) bool { return r.Pieces == 0 && r.Holders == 0 })
	return table(rows, "| `%s` %s | %s s |", "scenario | bound", func(r *Row) string {
		return fmt.Sprintf("%.1f · %.1f", r.Pieces, r.Holders)
	})
}

func table(rows []Row, head, columns string, cell func(*Row) string) string {
	var b strings.Builder
	names := policies(rows)
	fmt.Fprintf(&b, "| %s |", columns)
	for _, name := range names {
		fmt.Fprintf(&b, " %s |", heading(name))
	}
	b.WriteString("\n|---|---|" + strings.Repeat("---|", len(names)) + "\n")
	for _, scenario := range order(rows, func(r Row) string { return r.Scenario }) {
		for i, name := range names {
			r := find(rows, scenario, name)
			if i == 0 {
				any := rows[slices.IndexFunc(rows, func(r Row) bool { return r.Scenario == scenario })]
				fmt.Fprintf(&b, head, scenario, any.Title, number(any.Bound))
			}
			if r == nil {
				b.WriteString(" – |")
				continue
			}
			fmt.Fprintf(&b, " %s |", cell(r))
		}
		b.WriteString("\n")
	}
	return b.String()
}

// number writes two significant places behind the point, of small numbers.
func number(x float64) string {
	if x >= 10 {
		return fmt.Sprintf("%.0f", x)
	}
	return fmt.Sprintf("%.2f", x)
}
