// Package settings is every setting that a command of ours knows, named once:
// the flag, the key in the configuration file, the default, the text. What a
// setting does is for the service that it is handed to. The names and defaults
// that Dragonfly v1 had are kept.
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

// DefaultFile is where the configuration is looked for.
const DefaultFile = "/etc/dragonfly/supernode.yml"

// EnvPrefix begins the names of the environment variables.
const EnvPrefix = "SUPERNODE"

const defaultReplicas = 2

// Settings are the values.
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
	// MaxRegistrations is in registrations per second and client address.
	MaxRegistrations int

	DownloadPort    int
	MaxBandwidth    config.Bytes
	SystemBandwidth config.Bytes
	// MaxUploadBandwidth is what serving pieces may use, in bytes per second.
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
	// MaxPeersPerTask and MaxTasks bound what a scheduler keeps; 0 for no bound.
	MaxPeersPerTask int
	MaxTasks        int

	UseHA           bool
	EtcdAddress     string
	LeaseTTL        time.Duration
	Replicas        int
	RegistryAddress string
}

// Group is a part of the settings that commands pick.
type Group int

// The groups: what a gateway, a scheduler, a CDN and a registry can be told,
// what all four in one process can, and what those can that run alone.
const (
	Gateway Group = iota
	Scheduler
	CDN
	Registry
	Bundle
	Alone
	WithRegistry
)

// Bind makes the settings of some groups, and those that every command has,
// flags of a command.
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
			flags.BoolVarP(&s.UseHA, "use-ha", "H", false, "be one of several supernodes that find each other through the etcd at --etcd-address")
			b.key("use-ha", "base.useHA")
		case Alone:
			flags.IntVar(&s.AdminPort, "admin-port", 0, "port of /metrics, /healthz, /readyz and /version; 0 for none")
			b.key("admin-port", "base.adminPort")
		case WithRegistry:
			flags.StringVar(&s.RegistryAddress, "registry-address", "127.0.0.1:9000", "host:port of a registry, or several with commas between")
			b.key("registry-address", "base.registryAddress")
		}
	}
	return s, set
}

type binder struct {
	flags *pflag.FlagSet
	keys  map[string]string
}

func (b binder) key(flag, key string) { b.keys[flag] = key }

func (b binder) common(s *Settings) {
	b.flags.StringVar(&s.ConfigFile, "config", DefaultFile, "the configuration file")
	b.flags.StringVar(&s.HomeDir, "home-dir", "/home/admin/supernode", "the working directory")
	b.flags.StringVar(&s.AdvertiseIP, "advertise-ip", "", "the IPv4 address that peers and other members reach this process on (default: the first that is not a loopback one)")
	b.flags.StringVar(&s.NodeID, "node-id", "", "the name of this member, the same after a restart (default: the advertised address and the rpc port)")
	b.flags.StringVar(&s.Zone, "zone", "", "the failure domain of this member: copies of a task lie in different ones where they can")
	b.flags.IntVar(&s.Capacity, "capacity", 1, "how much this member is given to do, compared with others")
	b.flags.DurationVar(&s.GracePeriod, "grace-period", 25*time.Second, "how long this process may take to stop: to hand over and to end what is under way")
	b.flags.IntVar(&s.RPCPort, "rpc-port", 9000, "port of the gRPC server")
	b.flags.BoolVar(&s.Profiler, "profiler", false, "answer /debug/pprof/")
	b.flags.BoolVarP(&s.Debug, "debug", "D", false, "log every step")
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
	b.flags.DurationVar(&s.HoldTime, "hold-time", 3*time.Second, "how long a pull is held when there is nothing to give; at most 3s, since dfget waits 5s for an answer")
	b.flags.IntVar(&s.MaxRegistrations, "max-registrations", 1000, "registrations a second that a gateway takes from one client address, five times as many at once; clients behind one address (NAT, a load balancer) share it; 0 for no limit")
	b.key("max-registrations", "base.maxRegistrations")
	b.key("port", "base.listenPort")
	b.key("hold-time", "base.holdTime")
}

func (b binder) scheduler(s *Settings) {
	b.flags.IntVar(&s.UpLimit, "up-limit", 4, "pieces that a peer sends at the same time")
	b.flags.IntVar(&s.DownLimit, "down-limit", 4, "pieces that a peer fetches at the same time")
	b.flags.DurationVar(&s.FailAccessInterval, "fail-access-interval", 3*time.Minute, "how long a source that refused is left alone")
	b.flags.DurationVar(&s.GCInitialDelay, "gc-initial-delay", 6*time.Second, "when to look for old tasks and peers first")
	b.flags.DurationVar(&s.GCMetaInterval, "gc-meta-interval", 2*time.Minute, "how often to look for old tasks and peers")
	b.flags.DurationVar(&s.TaskExpireTime, "task-expire-time", 3*time.Minute, "how long a task is remembered that no peer asks for")
	b.flags.DurationVar(&s.PeerGCDelay, "peer-gc-delay", 3*time.Minute, "how long a peer is remembered that has left")
	b.flags.IntVar(&s.MaxPeersPerTask, "max-peers-per-task", 100_000, "peers of one task that a scheduler keeps; further ones are refused; 0 for no bound")
	b.flags.IntVar(&s.MaxTasks, "max-tasks", 100_000, "tasks that a scheduler keeps; further ones are refused; 0 for no bound")
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
	b.flags.IntVar(&s.DownloadPort, "download-port", 8001, "port that peers fetch pieces from")
	b.flags.Var(&s.MaxBandwidth, "max-bandwidth", "bytes a second that this machine may use in all; 0 for no limit")
	b.flags.Var(&s.SystemBandwidth, "system-bandwidth", "bytes a second of --max-bandwidth that fetching from sources leaves to others")
	b.flags.Var(&s.MaxUploadBandwidth, "max-upload-bandwidth", "bytes a second that serving pieces may use; 0 for no limit")
	b.flags.IntVar(&s.PoolSize, "pool-size", 10, "pieces that are checksummed and written at the same time")
	b.flags.StringVar(&s.CDNPattern, "cdn-pattern", "local", "where the first copies are served from; only \"local\" so far")
	b.key("download-port", "base.downloadPort")
	b.key("max-bandwidth", "base.maxBandwidth")
	b.key("system-bandwidth", "base.systemReservedBandwidth")
	b.key("max-upload-bandwidth", "base.maxUploadBandwidth")
	b.key("pool-size", "base.schedulerCorePoolSize")
	b.key("cdn-pattern", "base.cdnPattern")
}

func (b binder) registry(s *Settings) {
	b.flags.StringVar(&s.EtcdAddress, "etcd-address", "127.0.0.1:2379", "host:port of an etcd member, or several with commas between")
	b.flags.DurationVar(&s.LeaseTTL, "lease-ttl", 5*time.Second, "how long a member is believed to be alive that is not heard of")
	b.flags.IntVar(&s.Replicas, "replicas", defaultReplicas, "CDN instances that have a copy of a task, the one that fetches it included; the same everywhere")
	b.key("replicas", "base.replicas")
	b.key("etcd-address", "base.etcdAddress")
	b.key("lease-ttl", "base.leaseTTL")
}

// ignored are Dragonfly v1's keys that have nothing to act on here.
func ignored() []string {
	return []string{
		"base.eliminationLimit", "base.failureCountLimit", "base.linkLimit", "base.gcDiskInterval",
		"base.youngGCThreshold", "base.fullGCThreshold", "base.IntervalThreshold", "base.cleanRatio",
		"base.downloadPath", "base.logConfig", "plugins", "storages",
	}
}

// Check refuses what no process could work with. It looks at the settings of
// all groups: those that were not bound have their zero or default value.
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
		errs = append(errs, errors.New(`--cdn-pattern source is not supported yet: pieces straight from the source come with a later release; use "local"`))
	default:
		errs = append(errs, fmt.Errorf(`--cdn-pattern %q: want "local"`, s.CDNPattern))
	}
	if s.HoldTime < 0 || s.HoldTime > 3*time.Second {
		errs = append(errs, fmt.Errorf("--hold-time %s: want 0 to 3s", s.HoldTime))
	}
	if s.MaxBandwidth > 0 && s.SystemBandwidth >= s.MaxBandwidth {
		errs = append(errs, fmt.Errorf("--system-bandwidth %s leaves nothing of --max-bandwidth %s", &s.SystemBandwidth, &s.MaxBandwidth))
	}
	return errors.Join(errs...)
}

// How long a name may be; for ids it is what the registry takes.
const (
	maxNodeID = 255
	maxZone   = 64
)

func checkRange(flag string, n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%s %d: want %d to %d", flag, n, least, most)
	}
	return nil
}

func checkName(flag, name string, most int) error {
	if len(name) > most || strings.ContainsFunc(name, notOfName) {
		return fmt.Errorf("%s %.80q: want up to %d characters of [A-Za-z0-9.:_-]", flag, name, most)
	}
	return nil
}

func notOfName(r rune) bool {
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

// FetchRate is how many bytes a second the sources may send, 0 for no limit.
func (s *Settings) FetchRate() int64 {
	if s.MaxBandwidth == 0 {
		return 0
	}
	return int64(s.MaxBandwidth - s.SystemBandwidth)
}

// List splits a setting that names several endpoints.
func List(s string) []string {
	var list []string
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			list = append(list, part)
		}
	}
	return list
}
