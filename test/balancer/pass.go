package balancer

import (
	"io"
	"net"
)

// pass copies what comes from one side to the other. The end of it is passed on
// and leaves the way back open; when either side breaks, both are cut.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if half, ok := to.(*net.TCPConn); ok && err == nil {
		err = half.CloseWrite()
	}
	if err != nil {
		cut(to)
		cut(from)
	}
}

// cut resets a connection.
func cut(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}
