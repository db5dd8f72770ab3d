// Package admission limits how many registrations each client address may make, so
// that a client that registers in a loop does not use up what downloads need. It
// limits only registrations: a download that has begun is never limited.
package admission

import (
	"fmt"
	"net/netip"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

const (
	// addresses is how many client addresses are kept. With more of them, the one that
	// registered longest ago starts with a full bucket again.
	addresses = 65_536
	// burstSeconds is the size of a bucket in seconds of its rate. All downloads of a
	// host, or of the hosts behind one address, may begin at the same time.
	burstSeconds = 5
	// ipv6Prefix is the number of bits by which IPv6 clients are told apart. A host can
	// use any address of its network.
	ipv6Prefix = 64
)

// Limiter holds a token bucket for each client address. It is safe for concurrent
// use.
type Limiter struct {
	perSecond int
	buckets   *lru.Cache[string, *rate.Limiter]
	refusals  prometheus.Counter
}

// New returns a limiter that allows perSecond registrations a second for each
// address, and five times as many at once. With 0 there is no limit.
func New(perSecond int, metrics prometheus.Registerer) (*Limiter, error) {
	buckets, err := lru.New[string, *rate.Limiter](addresses)
	if err != nil {
		return nil, fmt.Errorf("creating the cache of client addresses: %w", err)
	}
	l := &Limiter{perSecond: perSecond, buckets: buckets, refusals: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "supernode_gateway_limited_registrations_total",
		Help: "Registrations that were refused because their client address made too many.",
	})}
	if err := metrics.Register(l.refusals); err != nil {
		return nil, fmt.Errorf("registering the metrics of registrations: %w", err)
	}
	return l, nil
}

// Allow reports whether a client may register now. remote is the address and port of
// its connection.
func (l *Limiter) Allow(remote string, now time.Time) bool {
	if l.perSecond == 0 || l.bucket(clientOf(remote)).AllowN(now, 1) {
		return true
	}
	l.refusals.Inc()
	return false
}

// bucket returns the bucket of a client and creates it if there is none.
func (l *Limiter) bucket(client string) *rate.Limiter {
	if b, found := l.buckets.Get(client); found {
		return b
	}
	b := rate.NewLimiter(rate.Limit(l.perSecond), l.perSecond*burstSeconds)
	if other, found, _ := l.buckets.PeekOrAdd(client, b); found {
		return other // a concurrent call has created it
	}
	return b
}

// clientOf returns what identifies the client of a connection: its IPv4 address or its
// IPv6 network, and all of remote if that is neither.
func clientOf(remote string) string {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return remote
	}
	address := at.Addr().Unmap().WithZone("")
	if address.Is4() {
		return address.String()
	}
	return netip.PrefixFrom(address, ipv6Prefix).Masked().String()
}
