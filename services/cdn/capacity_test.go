package cdn_test

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn"
)

func TestSchedulerReceivesItsWindowAndTheDeliveryRate(t *testing.T) {
	n := start(t, cdn.Config{})
	content := randomContent(3 << 20)
	o := serveOrigin(t, plainFile(content))
	id := idOf("rate")
	n.mustSeed(t, id, o.source(), content)
	ctx, cancel := contextOf(t)
	defer cancel()
	s, err := n.ShareCapacity(ctx)
	require.NoError(t, err)
	require.NoError(t, s.Send(&cdnv1.ShareCapacityRequest{SchedulerId: "s", InFlight: 1}))
	for {
		resp, err := s.Recv()
		require.NoError(t, err)
		require.Positive(t, resp.GetWindow())
		if resp.GetDeliveryRate() > 0 {
			break
		}
		status, _ := n.get(t, path(id), "bytes=0-1048575")
		require.Equal(t, http.StatusPartialContent, status)
		require.NoError(t, s.Send(&cdnv1.ShareCapacityRequest{SchedulerId: "s", InFlight: 1}))
	}
	n.stop()
	for err = nil; err == nil; {
		_, err = s.Recv()
	}
}
