package rpc

import (
	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

func facts(f task.Facts) *cdnv1.SourceFacts {
	return &cdnv1.SourceFacts{Length: f.Length, PieceSize: f.PieceSize, Etag: f.ETag, LastModified: f.LastModified}
}

func result(r task.Result) *cdnv1.SeedResult {
	return &cdnv1.SeedResult{Md5: r.MD5, Length: r.Length, PieceCount: r.PieceCount}
}

func factsEvent(f task.Facts) *cdnv1.SeedResponse {
	return &cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Facts{Facts: facts(f)}}
}

func pieceEvent(p task.Piece) *cdnv1.SeedResponse {
	return &cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Piece{
		Piece: &cdnv1.Piece{Num: p.Num, Md5: p.MD5, Length: p.Length},
	}}
}

func resultEvent(r task.Result) *cdnv1.SeedResponse {
	return &cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Result{Result: result(r)}}
}
