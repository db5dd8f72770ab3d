package peer_test

import (
	"io"
	"net"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/supernode-ha/supernode/test/peer"
)

// TestBrokenCallsAreRepeated breaks the first call of a path in one of the ways
// in which a server that dies does.
func TestBrokenCallsAreRepeated(t *testing.T) {
	ended := func(conn *net.TCPConn) {}
	reset := func(conn *net.TCPConn) { _ = conn.SetLinger(0) }
	torn := func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
	}
	for _, tt := range []struct {
		name, path string
		how        func(*net.TCPConn)
		repeated   bool
	}{
		{"pull ended", "/peer/task", ended, true},
		{"pull reset", "/peer/task", reset, true},
		{"pull torn", "/peer/task", torn, true},
		{"registration ended", "/peer/registry", ended, true},
		{"registration reset", "/peer/registry", reset, true},
		{"registration torn", "/peer/registry", torn, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, n := newCDN(t, length(1), pieceSize), newNode(t)
			n.pull = finishing(n, c, c.offer(0))
			broken := make(chan struct{}, 1)
			broken <- struct{}{}
			n.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == tt.path {
					select {
					case <-broken:
						conn, _, err := http.NewResponseController(w).Hijack()
						if err == nil {
							tt.how(conn.(*net.TCPConn))
							_ = conn.Close()
						}
						return
					default:
					}
				}
				n.serve(w, r)
			})
			result, err := download(t, newPeer(t, nil, n.addr()))
			require.Empty(t, broken)
			require.Zero(t, result.Migrations)
			if !tt.repeated {
				require.ErrorIs(t, err, peer.ErrNoBackSource)
				return
			}
			require.NoError(t, err)
			requireContent(t, c, result)
		})
	}
}
