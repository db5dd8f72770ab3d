// Package server is the supernode that is measured. It starts one, as one process
// or as one for each service, or uses one that runs already; it names the files
// that peers can download there; and it measures what the processes use.
package server

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/stage"
	"github.com/supernode-ha/supernode/test/usage"
)

// Config is what is measured.
type Config struct {
	// Tasks is the number of files, Pieces that of the pieces of each.
	Tasks, Pieces int

	// Supernodes are the commands to start, Etcd has the command of etcd.
	Supernodes, Etcd *cluster.Binaries
	// Processes is 1 for a bundle, and 4 for a process for each service. Flags are
	// further arguments of all of them.
	Processes int
	Flags     []string

	// Address is the host:port of a supernode that runs already; nothing is started
	// then. PIDs are its processes.
	Address string
	PIDs    []int
	// URL is what the number of a file is appended to for its URL. If it is empty,
	// a source of this process has the files, of Size bytes each.
	URL  string
	Size int64
}

// Check returns an error that says what cannot be measured.
func (c Config) Check() error {
	if c.Processes != 1 && c.Processes != services {
		return fmt.Errorf("%d processes: 1 or %d are possible", c.Processes, services)
	}
	if c.Address == "" {
		if c.URL != "" || len(c.PIDs) > 0 {
			return fmt.Errorf("a URL and process ids belong to the address of a supernode that runs, and there is none")
		}
		return nil
	}
	ip, err := localIP(c.Address)
	if err != nil {
		return err
	}
	if c.URL == "" {
		if !ip.IsLoopback() {
			return fmt.Errorf("the supernode at %s cannot reach a source of this process: give the URL of another one", c.Address)
		}
		return nil
	}
	host, ok := hostOf(c.URL)
	if !ok {
		return fmt.Errorf("the source %q is not the beginning of a URL with http:// and an IP address", c.URL)
	}
	_, err = localIP(host)
	return err
}

// benchmarks is the network that RFC 2544 reserves for them.
func benchmarks() netip.Prefix { return netip.MustParsePrefix("198.18.0.0/15") }

// localIP returns the IP address of host:port, and an error if it may be a machine
// that is not there to be measured.
func localIP(address string) (netip.Addr, error) {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("the address %q is not an IP address and a port", address)
	}
	ip := at.Addr().Unmap()
	if !ip.Is4() || !ip.IsLoopback() && !benchmarks().Contains(ip) {
		return netip.Addr{}, fmt.Errorf("the address %s is neither in 127.0.0.0/8 nor in %s: nothing else is measured", address, benchmarks())
	}
	return ip, nil
}

// hostOf returns the host:port of a URL that may end anywhere behind it.
func hostOf(url string) (string, bool) {
	rest, ok := strings.CutPrefix(url, "http://")
	host, _, slash := strings.Cut(rest, "/")
	if !strings.Contains(host, ":") {
		host += ":80"
	}
	return host, ok && slash
}

// File is a file that peers can download.
type File struct{ URL, MD5 string }

// Server is a supernode that runs.
type Server struct {
	// Address is its host:port for clients.
	Address string

	files     func(number int) File
	processes []process
	check     func() error
}

// process is one of its processes.
type process struct {
	pid     int    // 0 if it is unknown
	metrics string // their URL, empty if there are none
	foreign bool   // it may have no metrics
}

// Start starts the supernode on a stage, or finds it. The stage fails if that is
// not possible.
func Start(s *stage.Stage, cfg Config) *Server {
	switch {
	case cfg.Address != "":
		return attach(s, cfg)
	case cfg.Processes == 1:
		return startBundle(s, cfg)
	default:
		return startServices(s, cfg)
	}
}

// File returns the file with a number, from 0.
func (v *Server) File(number int) File { return v.files(number) }

// Check returns an error if a process of the supernode has logged one.
func (v *Server) Check() error { return v.check() }

// measureLimit is the time that a supernode that is busy may take for its metrics.
const measureLimit = 20 * time.Second

// The metrics that every process in Go has.
const (
	mallocs    = "go_memstats_mallocs_total"
	allocated  = "go_memstats_alloc_bytes_total"
	heapInUse  = "go_memstats_heap_inuse_bytes"
	goroutines = "go_goroutines"
)

// tasks is a metric that only our schedulers have.
const tasks = "supernode_scheduler_tasks"

// Usage is what the processes use, all together.
type Usage struct {
	// Known is false if no process id is known. Then these are 0: the processor
	// time since the start, and the present and the largest resident memory in
	// bytes.
	Known          bool
	Processor      time.Duration
	Resident, Peak int64

	// Measured is false if the processes have no such metrics. Then these are 0:
	// the allocations and their bytes since the start, the bytes of the heap that
	// are in use, and the goroutines.
	Measured              bool
	Mallocs, Allocated    float64
	HeapInUse, Goroutines float64
	// Tasks is the number of tasks that the schedulers have in memory, -1 if they
	// do not say it.
	Tasks float64
}

// Measure returns what the processes use.
func (v *Server) Measure(ctx context.Context) (Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, measureLimit)
	defer cancel()
	sum := Usage{Tasks: -1}
	for _, p := range v.processes { // first, since reading metrics costs something
		if p.pid == 0 {
			continue
		}
		used, err := usage.Processor(p.pid)
		if err != nil {
			return Usage{}, err
		}
		memory, err := usage.ReadMemory(p.pid)
		if err != nil {
			return Usage{}, err
		}
		sum.Known = true
		sum.Processor += used
		sum.Resident += memory.Resident
		sum.Peak += memory.Peak
	}
	for _, p := range v.processes {
		if p.metrics == "" {
			continue
		}
		m, err := usage.Metrics(ctx, p.metrics, mallocs, allocated, heapInUse, goroutines, tasks)
		if err != nil && !p.foreign {
			return Usage{}, err
		}
		sum.Measured = sum.Measured || m[mallocs] > 0
		sum.Mallocs += m[mallocs]
		sum.Allocated += m[allocated]
		sum.HeapInUse += m[heapInUse]
		sum.Goroutines += m[goroutines]
		if n, says := m[tasks]; says {
			sum.Tasks = max(0, sum.Tasks) + n
		}
	}
	return sum, nil
}

// Resident returns the present resident memory of the processes in bytes, 0 if no
// process id is known.
func (v *Server) Resident() (int64, error) {
	var sum int64
	for _, p := range v.processes {
		if p.pid == 0 {
			continue
		}
		memory, err := usage.ReadMemory(p.pid)
		if err != nil {
			return 0, err
		}
		sum += memory.Resident
	}
	return sum, nil
}
