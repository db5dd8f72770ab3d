package cdn

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/cluster"
	"github.com/supernode-ha/supernode/pkg/settings"
)

// Config is what an operator decides about a CDN instance. The zero value of a
// field with a default means the default.
type Config struct {
	// ID is the instance's member id, which it owns tasks under.
	ID string
	// HomeDir is the directory that the cache directory is in, or will be.
	HomeDir string
	// MaxBandwidth is what all fetches from sources may use together, in bytes
	// a second. 0 is no limit.
	MaxBandwidth int64
	// MaxUploadBandwidth is what all transfers to peers and other CDNs may use
	// together, in bytes per second. 0 is no limit.
	MaxUploadBandwidth int64
	// PoolSize is how many pieces may be checksummed and written at the same
	// time over all tasks, 1 to 1024. The default is 10.
	PoolSize int
	// FactsTimeout is how long a source may take to answer before its task is
	// announced without what the source says, below the 5 s after which clients
	// give up. The default is 2.5 s.
	FactsTimeout time.Duration
	// ConnectTimeout is for a connection to a source, and again for its TLS
	// handshake. The default is 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a source may send nothing, or less than 1 KiB. The
	// default is 30 s.
	IdleTimeout time.Duration
	// RetryDelay is waited before a fetch that was cut off goes on; it doubles
	// with every further attempt. The default is 500 ms.
	RetryDelay time.Duration
	// DrainTimeout is how long transfers to peers may go on when the service
	// is told to stop. The default is 7 s, within what a process grants its parts.
	DrainTimeout time.Duration
	// DiskTimeout is how long one operation on the disk may take before the disk
	// counts as failed. The default is 10 s.
	DiskTimeout time.Duration
	// CopyTimeout is how long another CDN may send nothing of a piece that it has
	// told of. The default is 10 s.
	CopyTimeout time.Duration
	// AnswerTimeout is how long another CDN may take to tell the next thing of
	// what it has, when it is asked before the source is. The default is 1 s.
	AnswerTimeout time.Duration
	// PauseLimit is the pause in the reading of a source after which the registry
	// is asked whether the task is still owned here. The default is 3 s.
	PauseLimit time.Duration
	// ReplaceDelay is how long a replica's instance may be gone before another
	// replica is made. The default is 5 s, so that a restart costs no copy.
	ReplaceDelay time.Duration
}

// ConfigFrom takes from the settings what concerns a CDN.
func ConfigFrom(id string, s *settings.Settings) Config {
	return Config{
		ID: id, HomeDir: s.HomeDir, PoolSize: s.PoolSize,
		MaxBandwidth: s.FetchRate(), MaxUploadBandwidth: int64(s.MaxUploadBandwidth),
	}
}

const (
	defaultPoolSize = 10
	mostPoolSize    = 1024
	clientTimeout   = 5 * time.Second
)

// complete gives the configuration with its defaults, checked.
func (c Config) complete() (Config, error) {
	var errs []error
	if c.ID == "" {
		errs = append(errs, errors.New("the id is empty"))
	}
	if c.HomeDir == "" {
		errs = append(errs, errors.New("the home directory is empty"))
	}
	if c.MaxBandwidth < 0 {
		errs = append(errs, fmt.Errorf("the bandwidth is negative: %d", c.MaxBandwidth))
	}
	if c.MaxUploadBandwidth < 0 {
		errs = append(errs, fmt.Errorf("the upload bandwidth is negative: %d", c.MaxUploadBandwidth))
	}
	if c.PoolSize == 0 {
		c.PoolSize = defaultPoolSize
	}
	if c.PoolSize < 1 || c.PoolSize > mostPoolSize {
		errs = append(errs, fmt.Errorf("the pool size is not within 1 and %d: %d", mostPoolSize, c.PoolSize))
	}
	for _, d := range []struct {
		name     string
		value    *time.Duration
		fallback time.Duration
	}{
		{"facts", &c.FactsTimeout, 2500 * time.Millisecond},
		{"connect", &c.ConnectTimeout, 10 * time.Second},
		{"idle", &c.IdleTimeout, 30 * time.Second},
		{"retry", &c.RetryDelay, 500 * time.Millisecond},
		{"drain", &c.DrainTimeout, 7 * time.Second},
		{"disk", &c.DiskTimeout, 10 * time.Second},
		{"copy", &c.CopyTimeout, 10 * time.Second},
		{"answer", &c.AnswerTimeout, time.Second},
		{"pause", &c.PauseLimit, 3 * time.Second},
		{"replace", &c.ReplaceDelay, 5 * time.Second},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
		if *d.value < 0 {
			errs = append(errs, fmt.Errorf("the %s time is negative: %v", d.name, *d.value))
		}
	}
	if c.FactsTimeout >= clientTimeout {
		errs = append(errs, fmt.Errorf("the facts time must be below the %v of clients: %v", clientTimeout, c.FactsTimeout))
	}
	return c, errors.Join(errs...)
}

// Deps is what a CDN instance is given to work with.
type Deps struct {
	// Logger takes the service's messages.
	Logger *zap.Logger
	// Metrics takes its metrics, supernode_cdn_*.
	Metrics prometheus.Registerer
	// Registry is told how fetches stand.
	Registry registryv1.RegistryServiceClient
	// Download is where peers fetch pieces from. Run closes it.
	Download net.Listener
	// Members knows the other CDNs; nil is an instance that knows none. It is
	// run by who made it.
	Members *cluster.View
	// Dial gives the connection to another CDN's rpc endpoint.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
}

func (d Deps) check() error {
	var errs []error
	if d.Logger == nil {
		errs = append(errs, errors.New("there is no logger"))
	}
	if d.Metrics == nil {
		errs = append(errs, errors.New("there is no place for metrics"))
	}
	if d.Registry == nil {
		errs = append(errs, errors.New("there is no registry"))
	}
	if d.Download == nil {
		errs = append(errs, errors.New("there is no download listener"))
	}
	if d.Members != nil && d.Dial == nil {
		errs = append(errs, errors.New("there is no way to reach other instances"))
	}
	return errors.Join(errs...)
}
