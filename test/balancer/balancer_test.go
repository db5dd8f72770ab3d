package balancer_test

import (
	"io"
	"net"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/supernode-ha/supernode/test/balancer"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// backend gives its name to whoever connects, then does as it is told.
type backend struct {
	net.Listener
	name string
	work sync.WaitGroup
}

// start runs a backend; then is what is done with a connection, and may be nil.
func start(t *testing.T, name string, then func(*net.TCPConn)) *backend {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := &backend{Listener: listener, name: name}
	b.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			b.work.Go(func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.WriteString(conn, name)
				if then != nil {
					then(conn.(*net.TCPConn))
				}
			})
		}
	})
	t.Cleanup(b.stop)
	return b
}

func (b *backend) stop() {
	_ = b.Close()
	b.work.Wait()
}

func balance(t *testing.T, backends ...*backend) *balancer.Balancer {
	t.Helper()
	var addresses []string
	for _, one := range backends {
		addresses = append(addresses, one.Addr().String())
	}
	b, err := balancer.Start("127.0.0.1:0", addresses...)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

func dial(t *testing.T, b *balancer.Balancer) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", b.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn)
}

// answerer is who a new connection reaches.
func answerer(t *testing.T, b *balancer.Balancer) string {
	t.Helper()
	name, err := io.ReadAll(dial(t, b))
	require.NoError(t, err)
	return string(name)
}

func TestConnectionsGoRoundThoseThatLive(t *testing.T) {
	one, two, three := start(t, "one", nil), start(t, "two", nil), start(t, "three", nil)
	b := balance(t, one, two, three)
	var got []string
	for range 4 {
		got = append(got, answerer(t, b))
	}
	require.Equal(t, []string{"one", "two", "three", "one"}, got)
	two.stop()
	require.Equal(t, "three", answerer(t, b))
	require.Equal(t, map[string]int{one.Addr().String(): 2, two.Addr().String(): 1, three.Addr().String(): 2}, b.Taken())
	one.stop()
	three.stop()
	_, err := io.ReadAll(dial(t, b))
	require.ErrorIs(t, err, syscall.ECONNRESET, "nobody is there")
}

// TestBrokenConnectionsBreak wants a client to see what became of its backend.
func TestBrokenConnectionsBreak(t *testing.T) {
	b := balance(t, start(t, "one", func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
	}))
	conn := dial(t, b)
	_, err := io.ReadFull(conn, make([]byte, 3))
	require.NoError(t, err)
	_, err = conn.Write([]byte("x"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
}

// TestEndIsPassedOnAlone wants an answer to come back to who has said all.
func TestEndIsPassedOnAlone(t *testing.T) {
	b := balance(t, start(t, "", func(conn *net.TCPConn) { _, _ = io.Copy(conn, conn) }))
	conn := dial(t, b)
	_, err := conn.Write([]byte("question"))
	require.NoError(t, err)
	require.NoError(t, conn.CloseWrite())
	echo, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "question", string(echo))
}

func TestCloseCutsWhatIsOpen(t *testing.T) {
	b := balance(t, start(t, "one", func(conn *net.TCPConn) { _, _ = io.Copy(io.Discard, conn) }))
	conn := dial(t, b)
	_, err := io.ReadFull(conn, make([]byte, 3))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	_, err = net.Dial("tcp", b.Addr())
	require.ErrorIs(t, err, syscall.ECONNREFUSED)
}

func TestNoBackend(t *testing.T) {
	_, err := balancer.Start("127.0.0.1:0")
	require.ErrorContains(t, err, "needs a backend")
}
