package peer

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
)

const defaultNodePort = 8002

// address is one node of the list. Its identity is its pointer: dfget skips
// the node it registered at last only when the very same entry comes again.
type address struct {
	host string
	port int
}

func (a *address) String() string { return a.host + ":" + strconv.Itoa(a.port) }

// addresses is the list, and how far it has been walked. It is walked once and
// never wraps around.
type addresses struct {
	list []*address
	at   atomic.Int32 // index of the current one, -1 before the first next
}

func parseAddresses(nodes []string, keepOrder bool) (*addresses, error) {
	parsed := make([]*address, len(nodes))
	weights := make([]int, len(nodes))
	divisor := 0
	for i, node := range nodes {
		a, weight, err := parseAddress(node)
		if err != nil {
			return nil, fmt.Errorf("node %q: %w", node, err)
		}
		parsed[i], weights[i] = a, weight
		divisor = commonDivisor(divisor, weight)
	}
	l := &addresses{}
	l.at.Store(-1)
	for i, a := range parsed {
		for range weights[i] / divisor {
			l.list = append(l.list, a)
		}
	}
	if !keepOrder {
		rand.Shuffle(len(l.list), func(i, j int) { l.list[i], l.list[j] = l.list[j], l.list[i] })
	}
	return l, nil
}

func parseAddress(node string) (*address, int, error) {
	weight := 1
	endpoint, weightText, weighted := strings.Cut(node, "=")
	if weighted {
		n, err := strconv.Atoi(weightText)
		if err != nil || n < 1 {
			return nil, 0, fmt.Errorf("weight %q is no positive number", weightText)
		}
		weight = n
	}
	host, portText, hasPort := strings.Cut(endpoint, ":")
	port := defaultNodePort
	if hasPort {
		n, err := strconv.Atoi(portText)
		if err != nil {
			return nil, 0, fmt.Errorf("port %q is no number", portText)
		}
		port = n
	}
	if host == "" {
		return nil, 0, fmt.Errorf("no host in %q", endpoint)
	}
	return &address{host: host, port: port}, weight, nil
}

func commonDivisor(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// current is the entry that next gave last; nil before the first and behind
// the last.
func (l *addresses) current() *address {
	at := int(l.at.Load())
	if at < 0 || at >= len(l.list) {
		return nil
	}
	return l.list[at]
}

func (l *addresses) next() *address {
	if int(l.at.Load()) < len(l.list) {
		l.at.Add(1)
	}
	return l.current()
}
