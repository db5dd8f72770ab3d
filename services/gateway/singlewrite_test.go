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

// counting is a listener whose connections count what is written to them.
type counting struct {
	net.Listener
	writes atomic.Int64
}

func (l *counting) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &counted{Conn: conn, writes: &l.writes}, nil
}

type counted struct {
	net.Conn
	writes *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes.Add(1)
	return c.Conn.Write(p)
}

// TestAnswersAreNotCutByAKill wants each answer to dfget handed to the kernel at
// once: who is killed has answered or has not. dfget repeats a registration
// that was not answered, and gives up on one whose answer was cut.
func TestAnswersAreNotCutByAKill(t *testing.T) {
	s := &scheduler{id: "s1"}
	s.pull = func(context.Context, *schedulerv1.PullPiecesRequest) (*schedulerv1.PullPiecesResponse, error) {
		const mostAtATime = 4
		offers := &schedulerv1.PieceOffers{}
		for i := range int32(mostAtATime) {
			offers.Items = append(offers.Items, &schedulerv1.PieceOffer{
				Num: i, Size: 15 << 20, Length: 15 << 20, Md5: strings.Repeat("0", 32),
				PeerId: cidA, Ip: "255.255.255.255", Port: 65000, Path: "/peer/file/" + strings.Repeat("x", 250),
			})
		}
		return &schedulerv1.PullPiecesResponse{Answer: &schedulerv1.PullPiecesResponse_Offers{Offers: offers}}, nil
	}
	w := start(t, gateway.Config{}, s)
	for i, c := range []struct {
		call func() answer
		want int
	}{
		{func() answer { return w.post("/peer/registry", good) }, 200},
		{func() answer { return w.get(pullA) }, 601},
	} {
		require.Equal(t, c.want, c.call().code())
		require.EqualValues(t, i+1, w.writes.Load())
	}
}
