package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// Shape bounds the host's link to a rate in bits per second, in each direction
// by itself, with the queue of a usual switch port in front of it.
func (h *Host) Shape(t reporter, rate int64) {
	t.Helper()
	tbf := []string{"root", "tbf", "rate", strconv.FormatInt(rate, 10), "burst", "256kb", "latency", "100ms"}
	run(t, "tc", append([]string{"qdisc", "replace", "dev", h.port}, tbf...)...)
	args := append(h.Inside(), "tc", "qdisc", "replace", "dev", "eth0")
	args = append(args, tbf...)
	run(t, args[0], args[1:]...)
}

// Introduce stores the network cards of all hosts, and that of the test's
// process, in every host for good. Without it, the neighbours of some 30 hosts
// overflow the kernel's table, which all network namespaces share.
func Introduce(t reporter, hosts []*Host) {
	t.Helper()
	var lines []string
	for _, h := range hosts {
		lines = append(lines, neighbour(h.IP, h.number, "eth0"))
	}
	for i, h := range hosts {
		own := append([]string{neighbour(HubIP, hub, "eth0")}, lines[:i]...)
		batch(t, h.Inside(), append(own, lines[i+1:]...))
	}
	var local []string
	for _, h := range hosts {
		local = append(local, neighbour(h.IP, h.number, bridge))
	}
	batch(t, nil, local)
}

func neighbour(ip string, number int, device string) string {
	return fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent", ip, cardOf(number), device)
}

// batch runs many lines of ip at once.
func batch(t reporter, inside, lines []string) {
	t.Helper()
	args := append(append([]string(nil), inside...), "ip", "-batch", "-")
	cmd := exec.Command(args[0], args[1:]...) //nolint:noctx // it ends at once
	cmd.Stdin = strings.NewReader(strings.Join(lines, "\n") + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Refuse makes the host drop every connection that others open to one of its
// ports from first to last, as a firewall does: the other side gets no answer.
// The host itself still reaches them. What it opens starts below first.
func (h *Host) Refuse(t reporter, first, last int) {
	t.Helper()
	args := append(h.Inside(), "ip", "rule", "add", "ipproto", "tcp", "sport", fmt.Sprintf("%d-%d", first, last), "blackhole")
	run(t, args[0], args[1:]...)
	sysctl := fmt.Sprintf("echo 1024 %d > /proc/sys/net/ipv4/ip_local_port_range", first-1)
	args = append(h.Inside(), "sh", "-c", sysctl)
	run(t, args[0], args[1:]...)
}

// Received returns the bytes that the network has delivered to each host,
// headers included.
func Received(hosts []*Host) ([]int64, error) {
	table, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return nil, fmt.Errorf("reading the counters of the ports: %w", err)
	}
	counts := make(map[string]int64)
	for line := range bytes.Lines(table) {
		name, numbers, ok := strings.Cut(string(line), ":")
		fields := strings.Fields(numbers)
		const sent = 8 // of the port, to the host
		if !ok || len(fields) <= sent {
			continue
		}
		if counts[strings.TrimSpace(name)], err = strconv.ParseInt(fields[sent], 10, 64); err != nil {
			return nil, fmt.Errorf("reading the counters of the ports: %w", err)
		}
	}
	got := make([]int64, len(hosts))
	for i, h := range hosts {
		count, ok := counts[h.port]
		if !ok {
			return nil, errors.New("reading the counters of the ports: " + h.port + " is missing")
		}
		got[i] = count
	}
	return got, nil
}
