// Package usage reads what a running process has used: processor time and
// memory from /proc, and counters from its Prometheus metrics.
package usage

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Processor returns the processor time that a process has used, in user and
// kernel mode together.
func Processor(pid int) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 on every Linux
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading the processor time of process %d: %w", pid, err)
	}
	// The name in brackets may contain spaces.
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	const user, kernel = 11, 12
	if len(fields) <= kernel {
		return 0, fmt.Errorf("reading the processor time of process %d: %q", pid, text)
	}
	var sum time.Duration
	for _, field := range []string{fields[user], fields[kernel]} {
		ticks, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading the processor time of process %d: %w", pid, err)
		}
		sum += time.Duration(ticks) * tick
	}
	return sum, nil
}

// Memory is the resident memory of a process in bytes.
type Memory struct {
	// Resident is the present one, Peak the largest since the process started.
	Resident, Peak int64
}

// ReadMemory returns the resident memory of a process.
func ReadMemory(pid int) (Memory, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return Memory{}, fmt.Errorf("reading the memory of process %d: %w", pid, err)
	}
	var m Memory
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		var to *int64
		switch name {
		case "VmRSS":
			to = &m.Resident
		case "VmHWM":
			to = &m.Peak
		default:
			continue
		}
		kilobytes, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return Memory{}, fmt.Errorf("reading the memory of process %d: %w", pid, err)
		}
		*to = kilobytes << 10
	}
	return m, nil
}

// Metrics reads the Prometheus metrics at a URL. It returns the sum over all
// series of each of the given names. A name that has no series is absent.
func Metrics(ctx context.Context, url string, names ...string) (map[string]float64, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("reading the metrics at %s: %w", url, err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, fmt.Errorf("reading the metrics at %s: %w", url, err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("reading the metrics at %s: HTTP status %d", url, response.StatusCode)
	}
	sums, err := sum(response.Body, names)
	if err != nil {
		return nil, fmt.Errorf("reading the metrics at %s: %w", url, err)
	}
	return sums, nil
}

// sum adds up the series of the given names in Prometheus's text format.
func sum(text io.Reader, names []string) (map[string]float64, error) {
	sums := make(map[string]float64)
	lines := bufio.NewScanner(text)
	for lines.Scan() {
		series, value, _ := strings.Cut(lines.Text(), " ")
		if i := strings.LastIndex(lines.Text(), "} "); i >= 0 { // the labels may contain spaces
			series, value = lines.Text()[:i], lines.Text()[i+2:]
		}
		name, _, _ := strings.Cut(series, "{")
		if !slices.Contains(names, name) {
			continue
		}
		number, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return nil, fmt.Errorf("value %q of %s: %w", value, name, err)
		}
		sums[name] += number
	}
	return sums, lines.Err()
}
