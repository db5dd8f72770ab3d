package server

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/supernode-ha/supernode/pkg/piece"
	"github.com/supernode-ha/supernode/test/cluster"
	"github.com/supernode-ha/supernode/test/origin"
	"github.com/supernode-ha/supernode/test/stage"
)

const (
	// services is the number of the services.
	services = 4
	// pieceSize in bytes is that of the wrapped pieces of files that are in the
	// cache before the start: no peer fetches their bytes.
	pieceSize = 1 << 10
	// adminPort is that of the metrics of services other than the gateway.
	adminPort = 9005
	// Numbers of hosts in the network of the processes. cdnNumber is what package
	// cluster numbers the first CDN with.
	bundleNumber = 1
	cdnNumber    = 10
	etcdNumber   = 200
)

// startBundle starts one process that has all files in its cache.
func startBundle(s *stage.Stage, cfg Config) *Server {
	address := cluster.Net(s)
	home := s.TempDir()
	v := &Server{files: fillCache(s, cfg, home)}
	layout := cluster.RunBundle(s, cfg.Supernodes, cluster.Spec{IP: address(bundleNumber), Home: home, More: cfg.Flags})
	v.use(s, layout)
	return v
}

// startServices starts a process for each service, and an etcd. The CDN has all
// files in its cache.
func startServices(s *stage.Stage, cfg Config) *Server {
	address := cluster.Net(s)
	home := s.TempDir()
	v := &Server{files: fillCache(s, cfg, home)}
	etcds := cluster.RunEtcds(s, cfg.Etcd, address(etcdNumber))
	at := func(number int) cluster.Spec {
		spec := cluster.Spec{IP: address(number)}
		if number == cdnNumber {
			spec.Home = home
		}
		return spec
	}
	more := map[cluster.Role][]string{cluster.Gateway: cfg.Flags}
	for _, role := range []cluster.Role{cluster.Registry, cluster.CDN, cluster.Scheduler} {
		more[role] = append([]string{"--admin-port", strconv.Itoa(adminPort)}, cfg.Flags...)
	}
	v.use(s, cluster.RunServices(s, cfg.Supernodes, etcds, at, 1, more))
	for _, e := range etcds {
		v.processes = append(v.processes, process{pid: e.PID(), metrics: "http://" + e.Endpoint + "/metrics"})
		s.Cleanup(e.Kill)
	}
	return v
}

// use measures the processes of a layout, and kills them at the end.
func (v *Server) use(s *stage.Stage, layout *cluster.Layout) {
	for _, n := range layout.Nodes {
		metrics := n.REST
		if n.Does(cluster.Gateway) {
			v.Address = n.REST
		} else {
			metrics = net.JoinHostPort(n.IP, strconv.Itoa(adminPort))
		}
		v.processes = append(v.processes, process{pid: n.PID(), metrics: "http://" + metrics + "/metrics"})
	}
	v.check = func() error {
		var errs []error
		for _, n := range layout.Nodes {
			for _, line := range n.Complaints() {
				errs = append(errs, fmt.Errorf("%s logged %s", n.Name, line))
			}
		}
		return errors.Join(errs...)
	}
	s.Cleanup(func() {
		for _, n := range layout.Nodes {
			n.Allow("") // what they log while others are killed is no news
			n.Kill()
		}
	})
}

// fillCache writes all files into the cache of a CDN that does not run yet. Their
// source is never asked, since their MD5 is known.
func fillCache(s *stage.Stage, cfg Config, home string) func(int) File {
	files := make([]File, cfg.Tasks)
	for i := range files {
		content := origin.Content(int64(cfg.Pieces)*(pieceSize-piece.WrapLength), uint64(i))
		cached := cluster.NewCached(fmt.Sprintf("http://127.0.0.1:1/%d", i), content, pieceSize)
		cached.Put(s, home)
		files[i] = File{URL: cached.URL, MD5: cached.MD5}
	}
	return func(number int) File { return files[number] }
}

// attach uses a supernode that runs already. It fetches the files from their
// source when the first peer asks for them.
func attach(s *stage.Stage, cfg Config) *Server {
	v := &Server{
		Address: cfg.Address, check: func() error { return nil },
		processes: []process{{metrics: "http://" + cfg.Address + "/metrics", foreign: true}},
	}
	for _, pid := range cfg.PIDs {
		v.processes = append(v.processes, process{pid: pid})
	}
	prefix := cfg.URL
	if prefix == "" {
		prefix = serveFiles(s, cfg)
	}
	v.files = func(number int) File { return File{URL: prefix + strconv.Itoa(number)} }
	return v
}

// serveFiles starts a source of all files, and returns the beginning of their URLs.
func serveFiles(s *stage.Stage, cfg Config) string {
	source, err := origin.Start(origin.Config{})
	if err != nil {
		s.Fatalf("starting the source: %v", err)
	}
	s.Cleanup(func() {
		if err := source.Close(); err != nil {
			s.Errorf("ending the source: %v", err)
		}
	})
	size := cfg.Size
	if size == 0 {
		size = int64(cfg.Pieces) * (piece.MinSize - piece.WrapLength)
	}
	for i := range cfg.Tasks {
		source.Put("/"+strconv.Itoa(i), origin.File{Size: size, Seed: uint64(i), ETag: `"1"`})
	}
	return source.URL("/")
}
