package peer

import (
	"fmt"
	"time"
)

// The ports that an upload server of dfget uses.
const (
	lowestPort = 15000
	ports      = 50_001
)

// identity is what the server identifies a peer by. Nothing listens there.
type identity struct {
	cid, ip, host, path string
	port                int
}

// newIdentity returns the identity of a peer. Peers of one process have different
// numbers; 250 hosts are in a network. As with dfget a cid is made of the address,
// the process id and the time.
func newIdentity(number int, now time.Time) identity {
	const hosts, networks = 250, 250
	ip := fmt.Sprintf("10.%d.%d.%d", number/hosts/networks%networks, number/hosts%networks, 1+number%hosts)
	sign := fmt.Sprintf("%d-%.3f", 1000+number, float64(now.UnixNano())/float64(time.Second))
	return identity{
		cid: ip + "-" + sign, ip: ip, host: fmt.Sprintf("host-%d", number), path: "/peer/file/file-" + sign,
		port: lowestPort + number%ports,
	}
}
