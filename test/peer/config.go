package peer

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The patterns of a download.
const (
	PatternP2P = "p2p" // serves its pieces to others
	PatternCDN = "cdn" // only takes
)

// Config is one peer's command line.
type Config struct {
	// Nodes are the addresses of the cluster, "host", "host:port" or
	// "host:port=weight". As in dfget they are shuffled once and then walked
	// once, a weight makes one address occur several times without making
	// migration to it possible, and a list of one cannot migrate at all.
	Nodes []string
	// KeepOrder walks Nodes as given instead of shuffled.
	KeepOrder bool

	// IP is what the peer listens on and says it is. When it is empty it is
	// found by connecting to the nodes, 1 s each.
	IP string
	// Dir is where the file goes; it must exist, and stays the caller's.
	Dir string
	// Name is the file's name in Dir; "file" when empty. What is told to the
	// cluster and what is written carry a unique suffix too.
	Name string

	// URL is what to download, TaskURL what names the task; URL when empty.
	URL, TaskURL string
	// MD5 is the expected one of the whole file, Identifier tells tasks of one
	// URL apart. The MD5 wins when both are given.
	MD5, Identifier string
	// Headers are sent to the cluster and to the source, "Name: value" each.
	Headers []string
	// Insecure and RootCAs (PEM) are for the source.
	Insecure bool
	RootCAs  [][]byte
	// CallSystem and DFDaemon are passed on in the registration.
	CallSystem string
	DFDaemon   bool
	// Version is what the peer says it is; 1.0.6 when empty.
	Version string

	// Pattern is PatternP2P, also when empty, or PatternCDN.
	Pattern string
	// NoBackSource fails instead of going to the source.
	NoBackSource bool
	// LocalLimit bounds the download in bytes a second; 0 is no bound. dfget's
	// own default is 20 MB/s.
	LocalLimit int64
	// Timeout bounds the whole download; 0 is dfget's rule: length / 64 KB/s
	// + 10 s, 5 min for an unknown length. Going to the source starts it anew.
	Timeout time.Duration

	// Faults is what this peer does wrong.
	Faults Faults
	// Buffers may be shared by many peers; each has its own when it is nil.
	Buffers *Buffers
	// Observe is told what happens, from several goroutines, and must be quick.
	Observe func(Event)
}

// Faults are the things that go wrong with peers in the field. The zero value
// is none of them.
type Faults struct {
	// LoseReport drops the k-th piece/suc report, LoseEvery every n-th,
	// LoseReports all of them. A dropped report is never sent.
	LoseReport  int
	LoseEvery   int
	LoseReports bool

	// CorruptServed changes a byte of every piece served, RefuseServed answers
	// 404 instead, ServeRate bounds each upload in bytes a second.
	CorruptServed bool
	RefuseServed  bool
	ServeRate     int64

	// RequestDelay is waited before every call to the cluster.
	RequestDelay time.Duration
	// CrashAfter makes the peer vanish when it has written so many pieces,
	// before it reports the last one through piece/suc.
	CrashAfter int

	// WriteDelay is waited before a piece is written, BeforeWrite called:
	// until then the piece is reported as semi-successful but not there, and
	// others who are sent for it get what the file holds instead.
	WriteDelay  time.Duration
	BeforeWrite func(ctx context.Context, piece int)
}

func (c *Config) complete() error {
	if c.URL == "" || c.Dir == "" {
		return errors.New("a peer needs a URL and a Dir")
	}
	switch c.Pattern {
	case "":
		c.Pattern = PatternP2P
	case PatternP2P, PatternCDN:
	default:
		return fmt.Errorf("pattern %q is neither p2p nor cdn", c.Pattern)
	}
	if c.TaskURL == "" {
		c.TaskURL = c.URL
	}
	if c.Name == "" {
		c.Name = "file"
	}
	if c.Version == "" {
		c.Version = "1.0.6"
	}
	if c.Buffers == nil {
		c.Buffers = &Buffers{}
	}
	if c.Observe == nil {
		c.Observe = func(Event) {}
	}
	return nil
}
