// Package process creates what every process of a cluster needs: settings, advertised
// address, member id, logger, metrics, gRPC server and gRPC connections. A command
// passes them to the services that it runs.
//
// The life of a process:
//
//	Main --> settings loaded and checked --> Process opened --> build adds parts --> parts run
//	SIGTERM, SIGINT, or a part returns --> parts stop in reverse order --> listeners and pool closed
package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/adminhttp"
	"github.com/supernode-ha/supernode/pkg/buildinfo"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/lifecycle"
	"github.com/supernode-ha/supernode/pkg/netaddr"
	"github.com/supernode-ha/supernode/pkg/rpcclient"
	"github.com/supernode-ha/supernode/pkg/rpcserver"
	"github.com/supernode-ha/supernode/pkg/settings"
	"github.com/supernode-ha/supernode/pkg/telemetry"
)

// Process holds what the services of a process share. Its group runs them.
type Process struct {
	*lifecycle.Group
	Settings  *settings.Settings
	Log       *zap.Logger
	Metrics   *prometheus.Registry
	Advertise netip.Addr
	// ID is the member id of the process.
	ID string
	// Endpoint is the host:port at which other members reach RPC.
	Endpoint string
	RPC      *rpcserver.Server
	Pool     *rpcclient.Pool

	rpcListener net.Listener
	listeners   []net.Listener
}

// Main runs the command of a process until it ends or the process receives a stop
// signal. It returns the exit code.
func Main(name, short string, build func(context.Context, *Process) error, groups ...settings.Group) int {
	ctx, stop := lifecycle.SignalContext(context.Background())
	defer stop()
	if err := Command(name, short, build, groups...).ExecuteContext(ctx); err != nil {
		return 1
	}
	return 0
}

// Command returns the command of a process. build adds parts to the process. The command
// then runs them, and stops them in reverse order.
func Command(name, short string, build func(context.Context, *Process) error, groups ...settings.Group) *cobra.Command {
	cmd := &cobra.Command{Use: name, Short: short, Args: cobra.NoArgs, SilenceUsage: true}
	s, set := settings.Bind(cmd.PersistentFlags(), groups...)
	load := func() ([]string, error) {
		// The variable of --config is read here, because Load needs the name of the
		// file before it reads the other variables.
		required := cmd.PersistentFlags().Changed("config")
		if file := os.Getenv(set.EnvName("config")); file != "" && !required {
			s.ConfigFile, required = file, true
		}
		unused, err := set.Load(s.ConfigFile, required)
		return unused, errors.Join(err, s.Check())
	}
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		unused, err := load()
		if err != nil {
			return err
		}
		return run(cmd.Context(), name, s, unused, build)
	}
	cmd.AddCommand(&cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(cmd *cobra.Command, _ []string) {
			b := buildinfo.Get()
			cmd.Printf("%s %s (revision %s, built %s, %s, %s/%s)\n", name, b.Version, b.Revision, b.BuildDate, b.GoVersion, b.OS, b.Arch)
		},
	}, &cobra.Command{
		Use: "config", Short: "Print the configuration in effect", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := load(); err != nil {
				return err
			}
			text, err := set.YAML()
			cmd.Print(text)
			return err
		},
	})
	return cmd
}

// run builds a process, runs its parts and closes it.
func run(ctx context.Context, name string, s *settings.Settings, unused []string, build func(context.Context, *Process) error) (err error) {
	log, err := telemetry.Logger(name, s.Debug)
	if err != nil {
		return err
	}
	for _, key := range unused {
		log.Warn("unknown key in the configuration file; it has no effect", zap.String("key", key))
	}
	limitMemory(log, memlimit.FromCgroup)
	p, err := open(s, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.close()) }()
	if err := build(ctx, p); err != nil {
		return err
	}
	b := buildinfo.Get()
	log.Info("starting", zap.String("version", b.Version), zap.String("revision", b.Revision),
		zap.String("member_id", p.ID), zap.String("endpoint", p.Endpoint))
	err = p.Run(ctx)
	log.Info("stopped", zap.Error(err))
	return err
}

// open creates everything that a process needs before its services are built.
func open(s *settings.Settings, log *zap.Logger) (*Process, error) {
	advertise, err := netaddr.Advertise(s.AdvertiseIP)
	if err != nil {
		return nil, err
	}
	p := &Process{
		Group: lifecycle.NewGroup(log, s.GracePeriod), Settings: s, Log: log, Metrics: telemetry.Registry(), Advertise: advertise,
	}
	if p.rpcListener, err = p.Listen(s.RPCPort); err != nil {
		return nil, fmt.Errorf("opening the port of the gRPC server: %w", err)
	}
	port := p.rpcListener.Addr().(*net.TCPAddr).Port
	p.Endpoint = net.JoinHostPort(advertise.String(), strconv.Itoa(port))
	if p.ID = s.NodeID; p.ID == "" {
		p.ID = p.Endpoint
	}
	if p.RPC, err = rpcserver.New(log, p.Metrics); err != nil {
		return nil, errors.Join(err, p.close())
	}
	p.Pool = rpcclient.NewPool(p.Endpoint, p.RPC.Local())
	return p, nil
}

// Listen opens a port of the advertised address, or of all addresses if the advertised
// one is not an address of this machine. When the process ends it closes the listener,
// if its user has not closed it.
func (p *Process) Listen(port int) (net.Listener, error) {
	l, err := netaddr.Listen(p.Advertise, port)
	if err == nil {
		p.listeners = append(p.listeners, l)
	}
	return l, err
}

func (p *Process) close() error {
	for _, l := range p.listeners {
		_ = l.Close() // its server has usually closed it
	}
	_ = p.Log.Sync() // standard error cannot always be synced
	if p.Pool == nil {
		return nil
	}
	return p.Pool.Close()
}

// Serve adds the gRPC server to the group. All services must be registered before the
// group runs.
func (p *Process) Serve() {
	p.Add("rpc", func(ctx context.Context) error { return p.RPC.Run(ctx, p.rpcListener) })
}

// ServeAdmin adds the admin HTTP server to the group, unless its port is 0. ready
// returns an error while the process cannot do its work; see adminhttp.Handler.
func (p *Process) ServeAdmin(ready func(context.Context) error) error {
	if p.Settings.AdminPort == 0 {
		return nil
	}
	l, err := p.Listen(p.Settings.AdminPort)
	if err != nil {
		return fmt.Errorf("opening the port of the admin server: %w", err)
	}
	handler := adminhttp.Handler(p.Metrics, ready, p.Settings.Profiler)
	p.Add("admin", func(ctx context.Context) error { return adminhttp.Serve(ctx, l, handler) })
	return nil
}

// Registry returns a client of the registries at --registry-address.
func (p *Process) Registry() (registryv1.RegistryServiceClient, error) {
	conn, err := p.Pool.DialAny(settings.List(p.Settings.RegistryAddress))
	if err != nil {
		return nil, fmt.Errorf("--registry-address: %w", err)
	}
	return registryv1.NewRegistryServiceClient(conn), nil
}

// View adds a view of the members to the group, and returns it.
func (p *Process) View(registry registryv1.RegistryServiceClient) *cluster.View {
	view := cluster.NewView(registry, p.Log)
	p.Add("members", view.Run)
	return view
}

// Announce adds an announcer of this process in a role to the group, and returns it.
// complete sets the fields of the member that only this role has; it may be nil.
func (p *Process) Announce(registry registryv1.RegistryServiceClient, role cluster.Role, complete func(*cluster.Member)) *cluster.Announcer {
	m := cluster.Member{
		ID: p.ID, Role: role, Endpoint: p.Endpoint, Version: buildinfo.Get().Version,
		Zone: p.Settings.Zone, Capacity: int32(p.Settings.Capacity),
	}
	if complete != nil {
		complete(&m)
	}
	a := cluster.NewAnnouncer(registry, m, p.Log)
	p.Add("announce", a.Run)
	return a
}

// Serves returns a function for Announce that sets the address at which this process
// serves pieces.
func (p *Process) Serves(download net.Listener) func(*cluster.Member) {
	return func(m *cluster.Member) {
		m.DownloadIP = p.Advertise.String()
		m.DownloadPort = int32(download.Addr().(*net.TCPAddr).Port)
	}
}
