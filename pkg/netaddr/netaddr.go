// Package netaddr chooses addresses: the one that peers are told and the one
// that a server listens on.
package netaddr

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
)

// ErrAdvertise is an address that peers cannot use.
var ErrAdvertise = errors.New("peers cannot use this address")

// Advertise gives the IPv4 address that peers are told. An explicit one is
// checked; without it the first IPv4 address that is not a loopback one is
// taken, as Dragonfly v1 does. Errors are ErrAdvertise with what to do.
func Advertise(explicit string) (netip.Addr, error) {
	if explicit != "" {
		return checkAdvertise(explicit)
	}
	for _, ip := range localIPv4() {
		if !ip.IsLoopback() && usable(ip) {
			return ip, nil
		}
	}
	return netip.Addr{}, fmt.Errorf("this machine has no IPv4 address but loopback: "+
		"name the address that peers reach it on with --advertise-ip (127.0.0.1 for a local try): %w", ErrAdvertise)
}

func checkAdvertise(explicit string) (netip.Addr, error) {
	ip, err := netip.ParseAddr(explicit)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("--advertise-ip %q is not an IP address: give the IPv4 address "+
			"that peers reach this machine on: %w", explicit, ErrAdvertise)
	}
	ip = ip.Unmap()
	if !ip.Is4() {
		return netip.Addr{}, fmt.Errorf("--advertise-ip %s is IPv6, which dfget cannot connect to: "+
			"give an IPv4 address of this machine: %w", ip, ErrAdvertise)
	}
	if !usable(ip) {
		return netip.Addr{}, fmt.Errorf("--advertise-ip %s is no address of a single machine: "+
			"give the IPv4 address that peers reach this machine on: %w", ip, ErrAdvertise)
	}
	return ip, nil
}

func usable(ip netip.Addr) bool {
	return !ip.IsUnspecified() && !ip.IsMulticast() && ip != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func localIPv4() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var found []netip.Addr
	for _, a := range addrs {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap().Is4() {
			found = append(found, prefix.Addr().Unmap())
		}
	}
	return found
}

// Listen opens a TCP listener on port (0 for any) of the advertised address
// when it is one of this machine's, else of every address: behind a NAT the
// advertised one cannot be bound. On loopback each address of 127.0.0.0/8
// counts as this machine's, so that several supernodes share one machine.
func Listen(advertise netip.Addr, port int) (net.Listener, error) {
	host := "0.0.0.0"
	if isLocal(advertise) {
		host = advertise.String()
	}
	return listen(host, port)
}

// ListenAny opens a TCP listener on port (0 for any) of every IPv4 address.
func ListenAny(port int) (net.Listener, error) { return listen("0.0.0.0", port) }

func listen(host string, port int) (net.Listener, error) {
	l, err := net.Listen("tcp4", net.JoinHostPort(host, strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("listening on port %d: %w", port, err)
	}
	return l, nil
}

func isLocal(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	for _, local := range localIPv4() {
		if local == ip {
			return true
		}
	}
	return false
}
