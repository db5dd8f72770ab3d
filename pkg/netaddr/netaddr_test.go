package netaddr_test

import (
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/pkg/netaddr"
)

func TestAddressesThatPeersCannotUseAreRefusedWithAdvice(t *testing.T) {
	for _, ip := range []string{"0.0.0.0", "::", "::1", "fe80::1", "224.0.0.1", "255.255.255.255", "host", "1.2.3", "127.0.0.1:80"} {
		_, err := netaddr.Advertise(ip)
		require.ErrorIs(t, err, netaddr.ErrAdvertise, ip)
		require.ErrorContains(t, err, "--advertise-ip", ip)
		require.ErrorContains(t, err, "IPv4", ip)
	}
}

func TestExplicitAddresses(t *testing.T) {
	for _, s := range []string{"127.0.0.1", "10.1.2.3", "::ffff:10.1.2.3"} {
		ip, err := netaddr.Advertise(s)
		require.NoError(t, err, s)
		require.True(t, ip.Is4(), s)
	}
}

func TestServersShareAPortOnDifferentAddresses(t *testing.T) {
	one, err := netaddr.Advertise("127.0.0.1")
	require.NoError(t, err)
	two, err := netaddr.Advertise("127.0.0.2")
	require.NoError(t, err)
	l, err := netaddr.Listen(one, 0)
	require.NoError(t, err)
	defer l.Close()
	port := l.Addr().(*net.TCPAddr).Port
	other, err := netaddr.Listen(two, port)
	require.NoError(t, err)
	defer other.Close()
	_, err = netaddr.Listen(one, port)
	require.Error(t, err)
}

func TestForeignAddressIsServedOnAll(t *testing.T) {
	ip, err := netaddr.Advertise("198.51.100.254") // a documentation address: never this machine's
	require.NoError(t, err)
	l, err := netaddr.Listen(ip, 0)
	require.NoError(t, err)
	defer l.Close()
	require.True(t, l.Addr().(*net.TCPAddr).IP.IsUnspecified())
}
