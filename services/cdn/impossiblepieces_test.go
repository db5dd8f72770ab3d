package cdn_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn"
)

// The pieces of a task of unknown length cannot be compared with the length. Impossible
// ones are refused all the same.
func TestReplicaRejectsImpossiblePieces(t *testing.T) {
	first, last := wrapPiece(randomContent(full)), wrapPiece(randomContent(10))
	facts := &cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Facts{Facts: &cdnv1.SourceFacts{Length: -1, PieceSize: size}}}
	pieceOf := func(num int32, wrapped []byte, length int32) *cdnv1.FollowResponse {
		return &cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{Piece: &cdnv1.Piece{Num: num, Md5: sum(wrapped), Length: length}}}
	}
	for name, events := range map[string][]*cdnv1.FollowResponse{
		"negative length":   {facts, pieceOf(0, first, -1)},
		"shorter than none": {facts, pieceOf(0, first, 3)},
		"nothing behind":    {facts, pieceOf(1, wrapPiece(nil), 5)},
		"a hole": {facts, pieceOf(1, last, int32(len(last))), {Event: &cdnv1.FollowResponse_Result{
			Result: &cdnv1.SeedResult{Md5: sum(randomContent(10)), Length: 10, PieceCount: 1},
		}}},
	} {
		t.Run(name, func(t *testing.T) {
			reg := newFakeRegistry(t)
			fake := &scriptedCDN{events: events, send: partial206(last)}
			reg.joinScriptedCDN(t, "bad", fake)
			reg.write(idOf("impossible"), serveOrigin(t, plainFile(nil)), 7, "bad", "b")
			b := reg.join(t, "b", cdn.Config{})
			eventually(t, func() bool { return fake.follows.Load() > 2 })
			s, err := b.Stat(t.Context(), &cdnv1.StatRequest{TaskId: idOf("impossible")})
			require.NoError(t, err)
			require.Nil(t, s.GetResult())
		})
	}
}
