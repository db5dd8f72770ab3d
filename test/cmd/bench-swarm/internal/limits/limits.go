// Package limits makes room for the connections of many peers, and says when there
// is not enough.
package limits

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// perPeer is the number of connections that a peer has at most.
	perPeer = 2
	// spare is the number of open files for everything else.
	spare = 200

	portRange = "/proc/sys/net/ipv4/ip_local_port_range"
)

// MakeRoom raises the soft limit of open files to the hard one. It returns an
// error if the peers may need more files or more local ports than there are. The
// processes that are started later have the same limit.
func MakeRoom(peers int) error {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("reading the limit of open files: %w", err)
	}
	files.Cur = files.Max
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("raising the limit of open files to %d: %w", files.Max, err)
	}
	if most := most(files.Max); peers > most {
		return fmt.Errorf("%d peers may have %d connections, and this process may open %d files (ulimit -Hn): at most %d peers are possible",
			peers, perPeer*peers, files.Max, most)
	}
	ports, err := localPorts()
	if err != nil {
		return err
	}
	if most := most(uint64(ports)); peers > most {
		return fmt.Errorf("%d peers may have %d connections, and there are %d local ports (%s): at most %d peers are possible",
			peers, perPeer*peers, ports, portRange, most)
	}
	return nil
}

// Free returns how many connections fit in the limit of open files beside those of
// the peers. MakeRoom has raised it.
func Free(peers int) (int, error) {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return 0, fmt.Errorf("reading the limit of open files: %w", err)
	}
	return perPeer * max(0, most(files.Cur)-peers), nil
}

// most returns how many peers fit in a number of files or ports.
func most(available uint64) int {
	const enough = 1 << 30
	if available > enough {
		available = enough
	}
	return max(0, int(available)-spare) / perPeer
}

// localPorts returns the number of ports that connections get at this end.
func localPorts() (int, error) {
	text, err := os.ReadFile(portRange)
	if err != nil {
		return 0, fmt.Errorf("reading the range of local ports: %w", err)
	}
	var first, last int
	if _, err := fmt.Sscan(string(text), &first, &last); err != nil {
		return 0, fmt.Errorf("reading the range of local ports from %q: %w", text, err)
	}
	return last - first + 1, nil
}
