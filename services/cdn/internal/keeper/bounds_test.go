package keeper_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"

	registryv1 "github.com/supernode-ha/supernode/api/supernode/registry/v1"
	"github.com/supernode-ha/supernode/pkg/rpcerr"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

func TestAnnouncementsOfLongAddressesAreBounded(t *testing.T) {
	t.Parallel()
	const copies = 200
	var disk []task.Inventory
	for i := range copies {
		c := copyOf("t" + string(rune('a'+i%26)) + string(rune('a'+i/26)))
		c.URL = "http://origin/" + strings.Repeat("x", 32<<10)
		disk = append(disk, c)
	}
	b := start(t, never, disk...)
	type batch struct{ copies, bytes int }
	batches := make(chan batch, copies)
	b.takes = func(copies []*registryv1.Copy) (*announce, error) {
		batches <- batch{len(copies), proto.Size(&registryv1.AnnounceCopiesRequest{Copies: copies})}
		return &announce{}, nil
	}
	b.tell(t, complete())
	for told := 0; told < copies; {
		got := <-batches
		require.Less(t, got.bytes, 2<<20)
		told += got.copies
	}
}

// A registry without a store answers, but gives nothing to anybody.
func TestHandoverDoesNotWaitForAStoreThatIsAway(t *testing.T) {
	t.Parallel()
	b := start(t, never, copyOf("a"))
	b.setMembers(self, "x")
	b.peers.have("a")
	b.answer("move@1 a", func(int) (*record, error) {
		return nil, rpcerr.Status(rpcerr.New(codes.Unavailable, rpcerr.StoreUnavailable, "the store is away")).Err()
	})
	b.tell(t, complete(rec("a", 1, self, "x")))
	b.untilHas("a@1:self[x] ")
	require.ErrorContains(t, b.keeper.Handover(t.Context()), "no registry answers")
}
