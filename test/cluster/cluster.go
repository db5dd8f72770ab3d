package cluster

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

const (
	rpcPort      = 9000
	downloadPort = 8001
	claimPort    = 9999
	readyLimit   = time.Minute
)

// block numbers the /24 networks of loopback that tests are given, so that
// all processes may use the same ports; ports numbers those that may not be
// shared.
//
//nolint:gochecknoglobals // loopback is the process's, and so is what is taken of it
var block, ports atomic.Int32

// Net gives a loopback /24 that no other test uses: Net(t)(7) is address 7 of it.
func Net(t Scope) func(host int) string {
	t.Helper()
	const third, second = 250, 200
	for range third * second {
		n := int(block.Add(1))
		// Other test processes begin elsewhere; one that takes more than a /16
		// goes on far from its first.
		far := 32 + (os.Getpid()+n/third*(second/3))%second
		address := func(host int) string { return fmt.Sprintf("127.%d.%d.%d", far, n%third, host) }
		if claim(t, address(255)) {
			return address
		}
	}
	t.Fatalf("there is no free network, or something else listens at port %d", claimPort)
	return nil
}

// FreePort gives a port that nobody listens on, below those that outgoing
// connections and peers are given, so that none of them takes it meanwhile, nor
// is another test given it.
func FreePort(t Scope) int {
	t.Helper()
	const first, count = 10000, 5000
	for range count {
		port := first + (os.Getpid()*61+int(ports.Add(1)))%count
		if claim(t, fmt.Sprintf("127.31.%d.%d", port/100, port%100)) && isFree(t, port) {
			return port
		}
	}
	t.Fatalf("there is no free port, or something else listens at port %d", claimPort)
	return 0
}

// claim makes what an address stands for the scope's until that ends, among all
// the tests of this network: it listens there, which ends with the process at
// the latest. It is false when another has it.
func claim(t Scope, ip string) bool {
	l, err := net.Listen("tcp4", net.JoinHostPort(ip, strconv.Itoa(claimPort)))
	if err != nil {
		return false
	}
	t.Cleanup(func() { _ = l.Close() })
	return true
}

// isFree tells whether nobody listens on a port.
func isFree(t Scope, port int) bool {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort("0.0.0.0", strconv.Itoa(port)))
	if err != nil {
		return false
	}
	if err := l.Close(); err != nil {
		t.Fatalf("freeing a port: %v", err)
	}
	return true
}

// Supernode is a running bundle.
type Supernode struct {
	*Process
	// IP is its advertised address, REST its host:port for clients, RPC that
	// for gRPC, Home its directory.
	IP, REST, RPC, Home string
}

// StartSupernode runs a bundle and waits until it can serve.
func StartSupernode(t Scope, b *Binaries, ip, home string, more ...string) *Supernode {
	t.Helper()
	port := FreePort(t)
	s := &Supernode{
		IP: ip, REST: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)),
		RPC: net.JoinHostPort(ip, strconv.Itoa(rpcPort)), Home: home,
	}
	args := append([]string{
		"--home-dir", home, "--advertise-ip", ip, "--port", strconv.Itoa(port),
		"--rpc-port", strconv.Itoa(rpcPort), "--download-port", strconv.Itoa(downloadPort),
	}, more...)
	s.Process = Start(t, "supernode "+ip, b.Path("supernode"), args...)
	AwaitReady(t, s.Process, s.REST)
	return s
}

// StartSupernodes runs n bundles that share an etcd.
func StartSupernodes(t Scope, b *Binaries, n int) []*Supernode {
	t.Helper()
	address := Net(t)
	etcd := endpointsOf(RunEtcds(t, b, address(200)))
	var list []*Supernode
	for i := range n {
		list = append(list, StartSupernode(t, b, address(i+1), t.TempDir(), "-H", "--etcd-address", etcd))
	}
	return list
}

// Services are n of each service, each a process of its own.
type Services struct {
	// Gateways are the host:ports for clients.
	Gateways []string
	// Processes are all of them but the etcd.
	Processes []*Process
	// RPC are their host:ports for gRPC, in the same order.
	RPC []string
}

// StartServices runs n of each service on one etcd and waits until every
// gateway can serve.
func StartServices(t Scope, b *Binaries, n int) *Services {
	t.Helper()
	address := Net(t)
	etcd := endpointsOf(RunEtcds(t, b, address(200)))
	s := &Services{}
	start := func(service string, host int, more ...string) {
		ip := address(host)
		args := append([]string{"--advertise-ip", ip, "--rpc-port", strconv.Itoa(rpcPort)}, more...)
		s.Processes = append(s.Processes, Start(t, service+" "+ip, b.Path(service), args...))
		s.RPC = append(s.RPC, net.JoinHostPort(ip, strconv.Itoa(rpcPort)))
	}
	registries := ""
	for i := range n {
		start("registry", 100+i, "--etcd-address", etcd)
		registries += "," + s.RPC[i]
	}
	for i := range n {
		start("cdn", 10+i, "--registry-address", registries, "--home-dir", t.TempDir(), "--download-port", strconv.Itoa(downloadPort))
		start("scheduler", 20+i, "--registry-address", registries)
		port := FreePort(t)
		start("gateway", 30+i, "--registry-address", registries, "--port", strconv.Itoa(port))
		s.Gateways = append(s.Gateways, net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	}
	for i, g := range s.Gateways {
		AwaitReady(t, s.Processes[n+3*i+2], g)
	}
	return s
}

// AwaitReady waits until a REST server says that downloads can be served.
func AwaitReady(t Scope, p *Process, rest string) {
	t.Helper()
	awaitOK(t, p, "http://"+rest+"/readyz")
}

func awaitOK(t Scope, p *Process, url string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
	defer cancel()
	for {
		if answersOK(ctx, url) {
			return
		}
		select {
		case <-p.done:
			t.Fatalf("%s ended: %v\n%s", p.Name, p.err, tail(p.Log(), 8000))
		case <-ctx.Done():
			t.Fatalf("%s is not ready\n%s", p.Name, tail(p.Log(), 8000))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func answersOK(ctx context.Context, url string) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}
