// Package settings defines the settings of all commands in one place: the flag, the key
// in the configuration file, the default and the help text. It checks values that no
// service can work with; the services apply the settings. Settings that Dragonfly v1
// has keep their names and defaults.
package settings

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/supernode-ha/supernode/pkg/config"
)

// DefaultFile is the default path of the configuration file.
const DefaultFile = "/etc/dragonfly/supernode.yml"

// EnvPrefix is the prefix of the names of environment variables.
const EnvPrefix = "SUPERNODE"

const defaultReplicas = 2

// Settings holds the values of all settings.
type Settings struct {
	ConfigFile  string
	HomeDir     string
	AdvertiseIP string
	NodeID      string
	Debug       bool
	Profiler    bool
	RPCPort     int
	AdminPort   int
	Zone        string
	Capacity    int
	GracePeriod time.Duration

	Port     int
	HoldTime time.Duration
	// MaxRegistrations is the number of registrations per second that a client address
	// may send; 0 for no limit.
	MaxRegistrations int

	DownloadPort    int
	MaxBandwidth    config.Bytes
	SystemBandwidth config.Bytes
	// MaxUploadBandwidth is the bandwidth for serving pieces in bytes per second; 0 for
	// no limit.
	MaxUploadBandwidth config.Bytes
	PoolSize           int
	CDNPattern         string

	UpLimit            int
	DownLimit          int
	FailAccessInterval time.Duration
	GCInitialDelay     time.Duration
	GCMetaInterval     time.Duration
	TaskExpireTime     time.Duration
	PeerGCDelay        time.Duration
	// MaxPeersPerTask and MaxTasks are the maximum numbers of peers of a task, and of
	// tasks, that a scheduler keeps; 0 for no limit.
	MaxPeersPerTask int
	MaxTasks        int

	UseHA           bool
	EtcdAddress     string
	LeaseTTL        time.Duration
	Replicas        int
	RegistryAddress string
}

// Group is a set of settings. A command has the settings of one or more groups.
type Group int

// The groups of settings.
const (
	// Gateway, Scheduler, CDN and Registry are the settings of one service.
	Gateway Group = iota
	Scheduler
	CDN
	Registry
	// Bundle is for a process with all four services.
	Bundle
	// Alone is for a process without a gateway. It has an admin server, because there
	// is no REST server that answers /metrics.
	Alone
	// WithRegistry is for a process whose registry is another process.
	WithRegistry
)

// Bind adds flags for the settings of some groups, and for those that every command
// has. It returns the settings, which get their values when the flags are parsed and
// Load of the set is called.
func Bind(flags *pflag.FlagSet, groups ...Group) (*Settings, *config.Set) {
	s := &Settings{MaxBandwidth: 200 << 20, SystemBandwidth: 20 << 20, Replicas: defaultReplicas}
	set := &config.Set{Flags: flags, EnvPrefix: EnvPrefix, Keys: make(map[string]string), Ignored: ignored()}
	b := binder{flags: flags, keys: set.Keys}
	b.common(s)
	for _, g := range groups {
		switch g {
		case Gateway:
			b.gateway(s)
		case Scheduler:
			b.scheduler(s)
		case CDN:
			b.cdn(s)
		case Registry:
			b.registry(s)
		case Bundle:
			flags.BoolVarP(&s.UseHA, "use-ha", "H", false, "run as one of several supernodes, which share the etcd at --etcd-address")
			b.key("use-ha", "base.useHA")
		case Alone:
			flags.IntVar(&s.AdminPort, "admin-port", 0, "port of /metrics, /healthz, /readyz and /version; 0 for none")
			b.key("admin-port", "base.adminPort")
		case WithRegistry:
			flags.StringVar(&s.RegistryAddress, "registry-address", "127.0.0.1:9000", "host:port of a registry, or several of them separated by commas")
			b.key("registry-address", "base.registryAddress")
		}
	}
	return s, set
}

// binder adds flags and their keys in the configuration file.
type binder struct {
	flags *pflag.FlagSet
	keys  map[string]string
}

func (b binder) key(flag, key string) { b.keys[flag] = key }

func (b binder) common(s *Settings) {
	b.flags.StringVar(&s.ConfigFile, "config", DefaultFile, "path of the configuration file")
	b.flags.StringVar(&s.HomeDir, "home-dir", "/home/admin/supernode", "path of the working directory")
	b.flags.StringVar(&s.AdvertiseIP, "advertise-ip", "", "IPv4 address at which peers and other members reach this process (default: the first one that is not a loopback address)")
	b.flags.StringVar(&s.NodeID, "node-id", "", "id of this member, which must stay the same after a restart (default: the advertised address and the gRPC port)")
	b.flags.StringVar(&s.Zone, "zone", "", "failure domain of this member; the copies of a task are placed in different ones if possible")
	b.flags.IntVar(&s.Capacity, "capacity", 1, "weight of this member in the placement of tasks, relative to other members")
	b.flags.DurationVar(&s.GracePeriod, "grace-period", 25*time.Second, "maximum time that this process takes to stop: to hand over tasks and to end running transfers")
	b.flags.IntVar(&s.RPCPort, "rpc-port", 9000, "port of the gRPC server")
	b.flags.BoolVar(&s.Profiler, "profiler", false, "serve profiles at /debug/pprof/")
	b.flags.BoolVarP(&s.Debug, "debug", "D", false, "log at debug level")
	b.key("home-dir", "base.homeDir")
	b.key("advertise-ip", "base.advertiseIP")
	b.key("node-id", "base.nodeID")
	b.key("zone", "base.zone")
	b.key("capacity", "base.capacity")
	b.key("grace-period", "base.gracePeriod")
	b.key("rpc-port", "base.rpcPort")
	b.key("profiler", "base.enableProfiler")
	b.key("debug", "base.debug")
}

func (b binder) gateway(s *Settings) {
	b.flags.IntVar(&s.Port, "port", 8002, "port of the REST server that dfget calls")
	b.flags.DurationVar(&s.HoldTime, "hold-time", 3*time.Second, "maximum time that a pull is held while there is no piece to offer; at most 3s, because dfget waits 5s for an answer")
	b.flags.IntVar(&s.MaxRegistrations, "max-registrations", 1000, "registrations per second that a gateway accepts from one client address, with bursts of five times as many; clients behind one address (NAT, a load balancer) share the limit; 0 for no limit")
	b.key("max-registrations", "base.maxRegistrations")
	b.key("port", "base.listenPort")
	b.key("hold-time", "base.holdTime")
}

func (b binder) scheduler(s *Settings) {
	b.flags.IntVar(&s.UpLimit, "up-limit", 4, "pieces that a peer sends at the same time")
	b.flags.IntVar(&s.DownLimit, "down-limit", 4, "pieces that a peer fetches at the same time")
	b.flags.DurationVar(&s.FailAccessInterval, "fail-access-interval", 3*time.Minute, "time after a failure of a source during which the same request is refused without asking the source again")
	b.flags.DurationVar(&s.GCInitialDelay, "gc-initial-delay", 6*time.Second, "delay before expired tasks and peers are removed for the first time")
	b.flags.DurationVar(&s.GCMetaInterval, "gc-meta-interval", 2*time.Minute, "interval at which expired tasks and peers are removed")
	b.flags.DurationVar(&s.TaskExpireTime, "task-expire-time", 3*time.Minute, "time without a request after which a task expires")
	b.flags.DurationVar(&s.PeerGCDelay, "peer-gc-delay", 3*time.Minute, "time after which a peer that has left expires")
	b.flags.IntVar(&s.MaxPeersPerTask, "max-peers-per-task", 100_000, "maximum number of peers of a task that a scheduler keeps; registrations of further ones are refused; 0 for no limit")
	b.flags.IntVar(&s.MaxTasks, "max-tasks", 100_000, "maximum number of tasks that a scheduler keeps; registrations of further ones are refused; 0 for no limit")
	b.key("max-peers-per-task", "base.maxPeersPerTask")
	b.key("max-tasks", "base.maxTasks")
	b.key("up-limit", "base.peerUpLimit")
	b.key("down-limit", "base.peerDownLimit")
	b.key("fail-access-interval", "base.failAccessInterval")
	b.key("gc-initial-delay", "base.gcInitialDelay")
	b.key("gc-meta-interval", "base.gcMetaInterval")
	b.key("task-expire-time", "base.taskExpireTime")
	b.key("peer-gc-delay", "base.peerGCDelay")
}

func (b binder) cdn(s *Settings) {
	b.flags.IntVar(&s.DownloadPort, "download-port", 8001, "port at which peers fetch pieces")
	b.flags.Var(&s.MaxBandwidth, "max-bandwidth", "bytes per second that this machine may use; fetching from sources uses at most this minus --system-bandwidth; 0 for no limit")
	b.flags.Var(&s.SystemBandwidth, "system-bandwidth", "bytes per second of --max-bandwidth that fetching from sources must not use")
	b.flags.Var(&s.MaxUploadBandwidth, "max-upload-bandwidth", "bytes per second that serving pieces may use; 0 for no limit")
	b.flags.IntVar(&s.PoolSize, "pool-size", 10, "pieces that are checksummed and written at the same time")
	b.flags.StringVar(&s.CDNPattern, "cdn-pattern", "local", "where the first copy of a piece is served from; only \"local\" is supported")
	b.key("download-port", "base.downloadPort")
	b.key("max-bandwidth", "base.maxBandwidth")
	b.key("system-bandwidth", "base.systemReservedBandwidth")
	b.key("max-upload-bandwidth", "base.maxUploadBandwidth")
	b.key("pool-size", "base.schedulerCorePoolSize")
	b.key("cdn-pattern", "base.cdnPattern")
}

func (b binder) registry(s *Settings) {
	b.flags.StringVar(&s.EtcdAddress, "etcd-address", "127.0.0.1:2379", "host:port of an etcd member, or several of them separated by commas")
	b.flags.DurationVar(&s.LeaseTTL, "lease-ttl", 5*time.Second, "time without a heartbeat after which a member counts as dead")
	b.flags.IntVar(&s.Replicas, "replicas", defaultReplicas, "number of CDN instances that have a copy of a task, including the one that fetches it; must be the same in all processes")
	b.key("replicas", "base.replicas")
	b.key("etcd-address", "base.etcdAddress")
	b.key("lease-ttl", "base.leaseTTL")
}

// ignored returns the keys of Dragonfly v1 that have no effect.
func ignored() []string {
	return []string{
		"base.eliminationLimit", "base.failureCountLimit", "base.linkLimit", "base.gcDiskInterval",
		"base.youngGCThreshold", "base.fullGCThreshold", "base.IntervalThreshold", "base.cleanRatio",
		"base.downloadPath", "base.logConfig", "plugins", "storages",
	}
}

// Check returns an error for each value that no process can work with. It checks the
// settings of all groups: those that are not bound have their zero or default value.
func (s *Settings) Check() error {
	var errs []error
	for name, port := range map[string]int{
		"--port": s.Port, "--download-port": s.DownloadPort, "--rpc-port": s.RPCPort, "--admin-port": s.AdminPort,
	} {
		if port < 0 || port > 65535 {
			errs = append(errs, fmt.Errorf("%s %d: want 0 to 65535", name, port))
		}
	}
	errs = append(errs, checkName("--node-id", s.NodeID, maxNodeID), checkName("--zone", s.Zone, maxZone),
		checkRange("--capacity", s.Capacity, 1, 1000), checkRange("--replicas", s.Replicas, 1, 10),
		checkRange("--max-registrations", s.MaxRegistrations, 0, 1_000_000),
		checkRange("--max-peers-per-task", s.MaxPeersPerTask, 0, math.MaxInt32), checkRange("--max-tasks", s.MaxTasks, 0, math.MaxInt32))
	if s.GracePeriod < time.Second || s.GracePeriod > 10*time.Minute {
		errs = append(errs, fmt.Errorf("--grace-period %s: want 1s to 10m", s.GracePeriod))
	}
	switch s.CDNPattern {
	case "", "local":
	case "source":
		errs = append(errs, errors.New(`--cdn-pattern source is not supported yet, it is planned for a later release; use "local"`))
	default:
		errs = append(errs, fmt.Errorf(`--cdn-pattern %q: want "local"`, s.CDNPattern))
	}
	if s.HoldTime < 0 || s.HoldTime > 3*time.Second {
		errs = append(errs, fmt.Errorf("--hold-time %s: want 0 to 3s", s.HoldTime))
	}
	if s.MaxBandwidth > 0 && s.SystemBandwidth >= s.MaxBandwidth {
		errs = append(errs, fmt.Errorf("--system-bandwidth %s: must be less than --max-bandwidth %s", &s.SystemBandwidth, &s.MaxBandwidth))
	}
	return errors.Join(errs...)
}

// Maximum lengths of names in bytes. The registry accepts ids of that length.
const (
	maxNodeID = 255
	maxZone   = 64
)

func checkRange(flag string, n, lowest, highest int) error {
	if n < lowest || n > highest {
		return fmt.Errorf("%s %d: want %d to %d", flag, n, lowest, highest)
	}
	return nil
}

func checkName(flag, name string, maxLength int) error {
	if len(name) > maxLength || strings.ContainsFunc(name, isForbiddenInName) {
		return fmt.Errorf("%s %.80q: want up to %d characters of [A-Za-z0-9.:_-]", flag, name, maxLength)
	}
	return nil
}

func isForbiddenInName(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
		return false
	}
	return !strings.ContainsRune(".:_-", r)
}

// stopReserve is the part of the grace period that is left for the parts of a process
// that stop after the last download: answering calls, unregistering, closing the store.
const stopReserve = 4 * time.Second

// FinishTime returns how long a process without sisters waits for the downloads in
// progress when it is stopped: the grace period without a reserve for the rest of the
// stop, but at least half of it.
func (s *Settings) FinishTime() time.Duration {
	return max(s.GracePeriod-stopReserve, s.GracePeriod/2)
}

// FetchRate returns the limit for fetching from sources in bytes per second, 0 for no
// limit.
func (s *Settings) FetchRate() int64 {
	if s.MaxBandwidth == 0 {
		return 0
	}
	return int64(s.MaxBandwidth - s.SystemBandwidth)
}

// List splits a setting that holds several endpoints separated by commas.
func List(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}
