package rest

import (
	"context"

	"google.golang.org/protobuf/proto"

	dfgetv1 "github.com/supernode-ha/supernode/api/supernode/dfget/v1"
)

// decodedKey is the key of a message that was decoded from a query.
type decodedKey struct{}

// withDecoded returns a context with the message of a query.
func withDecoded(ctx context.Context, m proto.Message) context.Context {
	return context.WithValue(ctx, decodedKey{}, m)
}

// decoded returns the message of a query, or in if the call has none.
func decoded[M proto.Message](ctx context.Context, in M) M {
	if m, ok := ctx.Value(decodedKey{}).(M); ok {
		return m
	}
	return in
}

// decodedCalls replaces the messages that grpc-gateway would have filled from a query
// by those that the handler has decoded: grpc-gateway parses a query by reflection,
// which took a tenth of the time of a call.
type decodedCalls struct{ dfgetv1.DfgetServiceServer }

func (c decodedCalls) PullPieces(ctx context.Context, in *dfgetv1.PullPiecesRequest) (*dfgetv1.PullPiecesResponse, error) {
	return c.DfgetServiceServer.PullPieces(ctx, decoded(ctx, in))
}

func (c decodedCalls) ReportPiece(ctx context.Context, in *dfgetv1.ReportPieceRequest) (*dfgetv1.ReportPieceResponse, error) {
	return c.DfgetServiceServer.ReportPiece(ctx, decoded(ctx, in))
}

func (c decodedCalls) ReportPieceError(
	ctx context.Context, in *dfgetv1.ReportPieceErrorRequest,
) (*dfgetv1.ReportPieceErrorResponse, error) {
	return c.DfgetServiceServer.ReportPieceError(ctx, decoded(ctx, in))
}

func (c decodedCalls) ReportServiceDown(
	ctx context.Context, in *dfgetv1.ReportServiceDownRequest,
) (*dfgetv1.ReportServiceDownResponse, error) {
	return c.DfgetServiceServer.ReportServiceDown(ctx, decoded(ctx, in))
}

// FetchNetwork gets its filter from the body, so only the rest is replaced.
func (c decodedCalls) FetchNetwork(ctx context.Context, in *dfgetv1.FetchNetworkRequest) (*dfgetv1.FetchNetworkResponse, error) {
	m := decoded(ctx, in)
	m.Filter = in.GetFilter()
	return c.DfgetServiceServer.FetchNetwork(ctx, m)
}
