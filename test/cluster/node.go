package cluster

import (
	"context"
	"net"
	"slices"
	"strconv"
)

// Role is what a node does in a cluster; a bundle does all.
type Role string

// The roles, named as their commands are.
const (
	Gateway   Role = "gateway"
	Scheduler Role = "scheduler"
	CDN       Role = "cdn"
	Registry  Role = "registry"
)

// Spec is how a node is run.
type Spec struct {
	// ID names it as a member; its host:port for gRPC when empty.
	ID string
	// IP is its advertised address.
	IP string
	// Home is its directory, for those that have one. Files is where the test
	// finds the same; Home when empty.
	Home, Files string
	// REST is where its clients are, for those that have any; when empty a port
	// of 127.0.0.1.
	REST string
	// Inside is what its command line is put behind, to run on another host.
	Inside []string
	// More are further arguments.
	More []string
}

// Node is a process of a cluster that can be started again as it was.
type Node struct {
	*Process
	Spec
	// RPC is its host:port for gRPC.
	RPC string

	roles   []Role
	command []string
}

// Does says whether the node has a role.
func (n *Node) Does(r Role) bool { return slices.Contains(n.roles, r) }

// Launch starts a node that was told to stop, was killed or never ran. It does
// not wait until the node can serve.
func (n *Node) Launch(t Scope) {
	t.Helper()
	n.Process = Start(t, string(n.name())+" "+n.IP, n.command[0], n.command[1:]...)
}

// Await waits until it can serve, if it has clients that ask for that.
func (n *Node) Await(t Scope) {
	t.Helper()
	if n.Does(Gateway) {
		AwaitReady(t, n.Process, n.REST)
	}
}

// Ready asks it once whether it can serve, if it has clients that ask for that.
func (n *Node) Ready(ctx context.Context) bool {
	return n.Does(Gateway) && answersOK(ctx, "http://"+n.REST+"/readyz")
}

func (n *Node) name() Role {
	if len(n.roles) > 1 {
		return "supernode"
	}
	return n.roles[0]
}

// newNode says what is run; nothing is.
func newNode(t Scope, b *Binaries, spec Spec, roles []Role, args ...string) *Node {
	t.Helper()
	n := &Node{Spec: spec, roles: roles, RPC: net.JoinHostPort(spec.IP, strconv.Itoa(rpcPort))}
	if n.ID == "" {
		n.ID = n.RPC
	} else {
		args = append(args, "--node-id", n.ID)
	}
	args = append(args, "--advertise-ip", spec.IP, "--rpc-port", strconv.Itoa(rpcPort))
	if n.Does(Gateway) {
		if n.REST == "" {
			n.REST = net.JoinHostPort("127.0.0.1", strconv.Itoa(FreePort(t)))
		}
		_, port, err := net.SplitHostPort(n.REST)
		if err != nil {
			t.Fatalf("the address for clients: %v", err)
		}
		args = append(args, "--port", port)
	}
	if n.Does(CDN) {
		if n.Files == "" {
			n.Files = n.Home
		}
		args = append(args, "--home-dir", n.Home, "--download-port", strconv.Itoa(downloadPort))
	}
	n.command = slices.Concat(spec.Inside, []string{b.Path(string(n.name()))}, args, spec.More)
	return n
}
