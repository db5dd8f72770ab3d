package rpc

import (
	"google.golang.org/grpc"

	cdnv1 "github.com/supernode-ha/supernode/api/supernode/cdn/v1"
	"github.com/supernode-ha/supernode/services/cdn/internal/task"
)

func facts(f task.Facts) *cdnv1.SourceFacts {
	return &cdnv1.SourceFacts{Length: f.Length, PieceSize: f.PieceSize, Etag: f.ETag, LastModified: f.LastModified}
}

func result(r task.Result) *cdnv1.SeedResult {
	return &cdnv1.SeedResult{Md5: r.MD5, Length: r.Length, PieceCount: r.PieceCount}
}

func expected(f *cdnv1.SourceFacts) *task.Facts {
	if f.GetPieceSize() == 0 {
		return nil
	}
	return &task.Facts{
		Length: f.GetLength(), PieceSize: f.GetPieceSize(), ETag: f.GetEtag(), LastModified: f.GetLastModified(),
	}
}

func pieceOf(p task.Piece) *cdnv1.Piece {
	return &cdnv1.Piece{Num: p.Num, Md5: p.MD5, Length: p.Length}
}

// seedSender sends events on a Seed stream.
type seedSender struct {
	stream grpc.ServerStreamingServer[cdnv1.SeedResponse]
}

func (s seedSender) facts(f task.Facts) error {
	return s.stream.Send(&cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Facts{Facts: facts(f)}})
}

func (s seedSender) piece(p task.Piece) error {
	return s.stream.Send(&cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Piece{Piece: pieceOf(p)}})
}

func (s seedSender) result(r task.Result) error {
	return s.stream.Send(&cdnv1.SeedResponse{Event: &cdnv1.SeedResponse_Result{Result: result(r)}})
}

// followSender sends events on a Follow stream.
type followSender struct {
	stream grpc.ServerStreamingServer[cdnv1.FollowResponse]
}

func (s followSender) facts(f task.Facts) error {
	return s.stream.Send(&cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Facts{Facts: facts(f)}})
}

func (s followSender) piece(p task.Piece) error {
	return s.stream.Send(&cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Piece{Piece: pieceOf(p)}})
}

func (s followSender) result(r task.Result) error {
	return s.stream.Send(&cdnv1.FollowResponse{Event: &cdnv1.FollowResponse_Result{Result: result(r)}})
}
