package cluster

import "github.com/supernode-ha/supernode/test/lab"

// Layout is a running cluster whose nodes can be told apart, ended and started
// again.
type Layout struct {
	Etcds []*Etcd
	Nodes []*Node
}

// RunBundles runs a bundle for every spec on one etcd, and waits until all of
// them can serve.
func RunBundles(t Scope, b *Binaries, etcds []*Etcd, specs []Spec) *Layout {
	t.Helper()
	l := &Layout{Etcds: etcds}
	for _, spec := range specs {
		if spec.Home == "" {
			spec.Home = t.TempDir()
		}
		l.Nodes = append(l.Nodes, newNode(t, b, spec, []Role{Registry, CDN, Scheduler, Gateway}, "-H", "--etcd-address", endpointsOf(etcds)))
	}
	l.run(t)
	return l
}

// RunBundle runs one bundle that shares nothing with others, and waits until it
// can serve.
func RunBundle(t Scope, b *Binaries, spec Spec) *Layout {
	t.Helper()
	if spec.Home == "" {
		spec.Home = t.TempDir()
	}
	l := &Layout{Nodes: []*Node{newNode(t, b, spec, []Role{Registry, CDN, Scheduler, Gateway})}}
	l.run(t)
	return l
}

// RunServices runs n of each service on one etcd, each a process of its own,
// and waits until every gateway can serve. at says where the process with a
// number is to run, more is what is added to the command lines of a role.
func RunServices(t Scope, b *Binaries, etcds []*Etcd, at func(number int) Spec, n int, more map[Role][]string) *Layout {
	t.Helper()
	l := &Layout{Etcds: etcds}
	registries := ""
	for i := range n {
		spec := at(100 + i)
		spec.More = more[Registry]
		node := newNode(t, b, spec, []Role{Registry}, "--etcd-address", endpointsOf(etcds))
		l.Nodes = append(l.Nodes, node)
		registries += "," + node.RPC
	}
	for place, role := range []Role{CDN, Scheduler, Gateway} {
		for i := range n {
			spec := at(10*(place+1) + i)
			spec.More = more[role]
			if role == CDN && spec.Home == "" {
				spec.Home = t.TempDir()
			}
			l.Nodes = append(l.Nodes, newNode(t, b, spec, []Role{role}, "--registry-address", registries))
		}
	}
	l.run(t)
	return l
}

// AtAddresses runs every process beside the test, at an address of its own.
func AtAddresses(address func(int) string) func(number int) Spec {
	return func(number int) Spec { return Spec{IP: address(number)} }
}

// AtHosts runs every process on a host of its own, whatever its number: the next
// of hosts. byIP finds the host of a process.
func AtHosts(hosts []*lab.Host) (at func(number int) Spec, byIP map[string]*lab.Host) {
	byIP = make(map[string]*lab.Host)
	for _, h := range hosts {
		byIP[h.IP] = h
	}
	return func(int) Spec {
		h := hosts[0]
		hosts = hosts[1:]
		return Spec{IP: h.IP, REST: h.IP + ":8002", Inside: h.Inside()}
	}, byIP
}

func (l *Layout) run(t Scope) {
	t.Helper()
	for _, n := range l.Nodes {
		n.Launch(t)
	}
	for _, n := range l.Nodes {
		n.Await(t)
	}
}

// All gives the nodes of a role, those that do not run too.
func (l *Layout) All(r Role) []*Node {
	var list []*Node
	for _, n := range l.Nodes {
		if n.Does(r) {
			list = append(list, n)
		}
	}
	return list
}

// Running gives the nodes of a role that have not ended.
func (l *Layout) Running(r Role) []*Node {
	var list []*Node
	for _, n := range l.All(r) {
		if n.Running() {
			list = append(list, n)
		}
	}
	return list
}

// Member gives the node that is a member under that id in that role, nil if
// there is none.
func (l *Layout) Member(r Role, id string) *Node {
	for _, n := range l.All(r) {
		if n.ID == id {
			return n
		}
	}
	return nil
}
