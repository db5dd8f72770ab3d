package gateway_test

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	schedulerv1 "github.com/supernode-ha/supernode/api/supernode/scheduler/v1"
	"github.com/supernode-ha/supernode/services/gateway"
)

// countingListener is a listener that counts the writes to its connections.
type countingListener struct {
	net.Listener
	writes atomic.Int64
}

func (l *countingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &countingConn{Conn: conn, writes: &l.writes}, nil
}

type countingConn struct {
	net.Conn
	writes *atomic.Int64
}

func (c *countingConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// A gateway can be killed at any moment. dfget repeats a registration without an
// answer, but gives up after a truncated answer. So each answer must be passed to
// the kernel in one write.
func TestEachAnswerIsASingleWrite(t *testing.T) {
	s := &scheduler{id: "s1"}
	s.pull = func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		const maxOffers = 4
		offers := &schedulerv1.PieceOffers{}
		for i := range int32(maxOffers) {
			offers.Items = append(offers.Items, &schedulerv1.PieceOffer{
				Num: i, Size: 15 << 20, Length: 15 << 20, Md5: strings.Repeat("0", 32),
				PeerId: cidA, Ip: "255.255.255.255", Port: 65000, Path: "/peer/file/" + strings.Repeat("x", 250),
			})
		}
		return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Offers{Offers: offers}}, nil
	}
	gw := start(t, gateway.Config{}, s)
	for i, c := range []struct {
		call func() answer
		want int
	}{
		{func() answer { return gw.post("/peer/registry", good) }, 200},
		{func() answer { return gw.get(pullA) }, 601},
	} {
		require.Equal(t, c.want, c.call().code())
		require.EqualValues(t, i+1, gw.writes.Load())
	}
}
