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

// Config holds the configuration of a CDN instance. The zero value of a field with a
// default means the default.
type Config struct {
	// ID is the member id of the instance, which records name as owner or replica.
	ID string
	// HomeDir is the directory that contains the cache directory.
	HomeDir string
	// MaxBandwidth limits all fetches from sources together, in bytes per second. 0 means
	// no limit.
	MaxBandwidth int64
	// MaxUploadBandwidth limits all transfers to peers and other CDNs together, in bytes
	// per second. 0 means no limit.
	MaxUploadBandwidth int64
	// PoolSize is the number of pieces of all tasks that may be hashed and written
	// concurrently, 1 to 1024. The default is 10.
	PoolSize int
	// FactsTimeout is the time without an answer of the source after which provisional
	// facts of the task are announced. It must be below the 5 s after which clients give
	// up. The default is 2.5 s.
	FactsTimeout time.Duration
	// ConnectTimeout bounds the time to connect to a source, and also that of its TLS
	// handshake. The default is 10 s.
	ConnectTimeout time.Duration
	// IdleTimeout is how long a source may send less than 1 KiB. The default is 30 s.
	IdleTimeout time.Duration
	// RetryDelay is the delay before an interrupted fetch is resumed. It doubles with each
	// attempt. The default is 500 ms.
	RetryDelay time.Duration
	// DrainTimeout is how long transfers to peers may continue after the service is told
	// to stop. The default is 7 s, which is less than a process grants its parts.
	DrainTimeout time.Duration
	// DiskTimeout is the duration of one disk operation after which the disk counts as
	// failed. The default is 10 s.
	DiskTimeout time.Duration
	// CopyTimeout is how long another CDN may send no bytes of a piece that it has
	// announced. The default is 10 s.
	CopyTimeout time.Duration
	// AnswerTimeout is how long another CDN may take for the next event when its pieces
	// are listed. The default is 1 s.
	AnswerTimeout time.Duration
	// PauseLimit is the pause in reading from a source after which the registry is asked
	// whether this instance still owns the task. The default is 3 s.
	PauseLimit time.Duration
	// ReplaceDelay is how long the instance of a replica may be missing before the replica
	// is replaced. The default is 5 s, so that a restart causes no copy.
	ReplaceDelay time.Duration
}

// ConfigFrom returns the configuration of a CDN with the given id from the settings of
// its process.
func ConfigFrom(id string, s *settings.Settings) Config {
	return Config{
		ID: id, HomeDir: s.HomeDir, PoolSize: s.PoolSize,
		MaxBandwidth: s.FetchRate(), MaxUploadBandwidth: int64(s.MaxUploadBandwidth),
	}
}

const (
	defaultPoolSize = 10
	maxPoolSize     = 1024
	clientTimeout   = 5 * time.Second
)

// complete returns the configuration with the defaults filled in, and an error that lists
// all invalid values.
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
	if c.PoolSize < 1 || c.PoolSize > maxPoolSize {
		errs = append(errs, fmt.Errorf("the pool size must be from 1 to %d: %d", maxPoolSize, c.PoolSize))
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
		errs = append(errs, fmt.Errorf("the facts timeout must be below %v, after which clients give up: %v", clientTimeout, c.FactsTimeout))
	}
	return c, errors.Join(errs...)
}

// Deps holds the dependencies of a CDN instance.
type Deps struct {
	Logger *zap.Logger
	// Metrics receives the metrics supernode_cdn_*.
	Metrics  prometheus.Registerer
	Registry registryv1.RegistryServiceClient
	// Download is the listener for peers that download pieces. Run closes it.
	Download net.Listener
	// Members is the list of the other CDNs. It is nil for an instance without a
	// cluster. The caller runs it.
	Members *cluster.View
	// Dial returns a connection to the RPC endpoint of another CDN. It is required with
	// Members.
	Dial func(endpoint string) (grpc.ClientConnInterface, error)
}

func (d Deps) check() error {
	var errs []error
	if d.Logger == nil {
		errs = append(errs, errors.New("the logger is missing"))
	}
	if d.Metrics == nil {
		errs = append(errs, errors.New("the registerer of metrics is missing"))
	}
	if d.Registry == nil {
		errs = append(errs, errors.New("the client of the registry is missing"))
	}
	if d.Download == nil {
		errs = append(errs, errors.New("the download listener is missing"))
	}
	if d.Members != nil && d.Dial == nil {
		errs = append(errs, errors.New("the function to dial other instances is missing"))
	}
	return errors.Join(errs...)
}
