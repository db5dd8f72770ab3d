package lab

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	bridge = "lab0"
	// network is one of those that are set aside for tests of networks (RFC 2544).
	network = "198.18.0."
)

// HubIP is where the hosts of a network reach what runs beside them: the test
// itself, its sources and its etcd.
const HubIP = network + "254"

// hub is the number of the process's own address in the network.
const hub = 254

// Host is a machine of a network: a network namespace with one address.
type Host struct {
	// IP is the host's address.
	IP string

	number    int
	port      string // of the bridge
	namespace *os.File
	partings  *partings
}

// partings counts, for the hosts of a network, how often two of them were
// parted and not joined again.
type partings struct {
	mu    sync.Mutex // guards pairs, and what the hosts take it from
	pairs map[[2]string]int
}

// reporter is a test, or whoever else is told what cannot be done.
type reporter interface {
	Helper()
	Fatalf(format string, args ...any)
}

// Scope is what hosts and file systems are made in and end with: a test, or a
// command that plays one.
type Scope interface {
	reporter
	Errorf(format string, args ...any)
	Cleanup(end func())
	TempDir() string
}

// Hosts makes n hosts that are joined by a switch, to which the test's process
// is connected too. There is one such network at a time.
func Hosts(t Scope, n int) []*Host {
	t.Helper()
	if !Inside() {
		t.Fatalf("hosts are made in namespaces that Isolate has made")
	}
	// An address of its own: one taken from a port would change with the ports.
	run(t, "ip", "link", "add", bridge, "address", cardOf(hub), "type", "bridge")
	t.Cleanup(func() { run(t, "ip", "link", "del", bridge) })
	run(t, "ip", "addr", "add", HubIP+"/24", "dev", bridge)
	run(t, "ip", "link", "set", bridge, "up")
	hosts, parted := make([]*Host, n), &partings{pairs: make(map[[2]string]int)}
	for i := range hosts {
		hosts[i] = newHost(t, i+1, parted)
	}
	return hosts
}

func newHost(t Scope, number int, parted *partings) *Host {
	t.Helper()
	namespace, err := newNetwork()
	if err != nil {
		t.Fatalf("making a host, which takes CAP_SYS_ADMIN: %v", err)
	}
	t.Cleanup(func() { _ = namespace.Close() })
	h := &Host{IP: fmt.Sprint(network, number), number: number, port: fmt.Sprint("lab0p", number), namespace: namespace, partings: parted}
	run(t, "ip", "link", "add", h.port, "type", "veth", "peer", "name", "eth0", "address", cardOf(number), "netns", h.path())
	// It would go with the namespace, but some time later.
	t.Cleanup(func() { run(t, "ip", "link", "del", h.port) })
	run(t, "ip", "link", "set", h.port, "master", bridge, "up")
	for _, line := range []string{"link set lo up", "addr add " + h.IP + "/24 dev eth0", "link set eth0 up"} {
		args := append(h.Inside(), "ip")
		args = append(args, strings.Fields(line)...)
		run(t, args[0], args[1:]...)
	}
	return h
}

// cardOf returns the address of the network card with a number.
func cardOf(number int) string { return fmt.Sprintf("02:00:00:00:00:%02x", number) }

// Inside is what a command line is put behind to run on the host.
func (h *Host) Inside() []string { return []string{"nsenter", "--net=" + h.path(), "--"} }

func (h *Host) path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.namespace.Fd()) }

// Cut takes the host off the network: what it sends and what is sent to it is
// lost, and no side is told.
func (h *Host) Cut(t reporter) {
	t.Helper()
	// A cable that ends nowhere, where nobody answers: both ends stay up.
	run(t, "ip", "link", "set", h.port, "nomaster", "arp", "off")
}

// Heal undoes Cut.
func (h *Host) Heal(t reporter) {
	t.Helper()
	run(t, "ip", "link", "set", h.port, "master", bridge, "arp", "on")
}

// Part loses what the host and the others send each other, and tells nobody.
// All of them go on reaching everybody else. Who is parted twice has to be
// joined twice.
func (h *Host) Part(t reporter, others ...*Host) {
	t.Helper()
	h.partings.mu.Lock()
	defer h.partings.mu.Unlock()
	for _, other := range others {
		if h.partings.add(h, other, 1) == 1 {
			// Frames go to a card that nobody has.
			neighbours(t, h, other, "replace", "lladdr", "02:00:00:00:01:00", "nud", "permanent")
		}
	}
}

// Join undoes Part.
func (h *Host) Join(t reporter, others ...*Host) {
	t.Helper()
	h.partings.mu.Lock()
	defer h.partings.mu.Unlock()
	for _, other := range others {
		if h.partings.add(h, other, -1) == 0 {
			neighbours(t, h, other, "del")
		}
	}
}

func (p *partings) add(a, b *Host, n int) int {
	pair := [2]string{min(a.IP, b.IP), max(a.IP, b.IP)}
	p.pairs[pair] += n
	return p.pairs[pair]
}

// neighbours changes where two hosts take each other's network card to be.
func neighbours(t reporter, a, b *Host, verb string, more ...string) {
	t.Helper()
	for _, way := range [][2]*Host{{a, b}, {b, a}} {
		args := append(way[0].Inside(), "ip", "neigh", verb, way[1].IP, "dev", "eth0")
		args = append(args, more...)
		run(t, args[0], args[1:]...)
	}
}

// newNetwork makes a network namespace. It lives as long as the file, or what
// runs in it.
func newNetwork() (*os.File, error) {
	const own = "/proc/thread-self/ns/net"
	runtime.LockOSThread()
	before, err := os.Open(own)
	if err != nil {
		runtime.UnlockOSThread()
		return nil, err
	}
	defer before.Close() //nolint:errcheck // only read
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("making a network namespace: %w", err)
	}
	made, err := os.Open(own)
	if back := unix.Setns(int(before.Fd()), unix.CLONE_NEWNET); back != nil {
		// The thread stays locked: nothing else may run in the wrong network.
		return nil, fmt.Errorf("going back to the network of the test: %w", back)
	}
	runtime.UnlockOSThread()
	return made, err
}

func run(t reporter, name string, args ...string) {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput() //nolint:noctx // these end at once
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
